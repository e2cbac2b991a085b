"""Hostile inputs made from valid trajectories by structure-aware mutation.

    python -m tests.fuzz --seconds 60 --seed 1

tries inputs for a minute and prints how many it tried and what it found. Input number I of a seed
is always the same: ``--only I --keep FOLDER`` makes it again and leaves it there. The exit code is
1 if anything was found: an exception that is no error of ours, a crash of the process, more than
ten seconds, more than half a GiB, or a file touched outside of the input. The HDF5 library itself
fails on some inputs, by a crash or without end; they are counted, and each is read once more in a
process apart (``untrusted=True``), which must refuse it.
"""
