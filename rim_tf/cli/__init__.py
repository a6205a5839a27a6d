"""`rim-tf`: arguments -> one call into the package. Whatever is the user's to mend ends in one sentence on stderr and
exit code 2, and leaves the output folder as it was.

`main` is the entry; each command has a file. TensorFlow takes seconds to import, so each command imports what it needs
when it runs, and --help nothing.
"""
