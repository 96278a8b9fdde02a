"""`python -m stepstream_server` is `stepstream-server`."""

from stepstream_server.cli import main

main()
