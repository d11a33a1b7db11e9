"""The golden corpus: files written by real torch releases, and what each of them must read back as."""
