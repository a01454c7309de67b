"""`python -m mcp_tornado` is `mcp-tornado`."""

from mcp_tornado.cli import main

main(prog_name="mcp-tornado")
