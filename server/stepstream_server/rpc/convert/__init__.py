"""Messages of the contract and the records of the engine port, each encode beside its decode, by subject.

Blocks, whose columns are the hot path, are in `rpc.columns` and `rpc.answers`.
"""
