"""The check `export`: modules as artefacts, each stage in a process of its own, judged by torch alone.

`families` draws modules and `features` gives them habits, both without torch. `crew` is the parent's side of the
worker processes; `worker` is theirs: one makes an artefact of a module and notes what eager torch computes, another
one, which never saw the module, loads it, calls it and weighs it. What is judged, compat's calls, has one door:
`subject`. The oracles beside it (`comparing`, `weighing`) import nothing of compat.
"""
