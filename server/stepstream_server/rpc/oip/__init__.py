"""The Open Inference Protocol with Triton's sequences: a second face of the same models and sessions.

Its messages are in a package of our own; its service has the name that clients call.
"""
