"""Replay: the user's own loss, asked again at recorded snapshots.

A trajectory alone bounds the sharpness from below. With the model and the data at hand, the loss
can be evaluated where the run has been, and the Hessian's largest eigenvalues, their residuals and
the trace are measured. Replay runs the user's code; nothing here runs unless it is asked for.
"""
