"""Administration over a Unix socket of the main process: its owner, who alone can open it, may see and do what no tenant may.

`requests` is what both ends know. The server's end is `service`, which has an `office` carry requests out; the command line's is
`client`, which brings none of that along.
"""
