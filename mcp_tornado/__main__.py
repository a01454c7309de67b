"""`python -m mcp_tornado` is `mcp-tornado`."""

from mcp_tornado.commands import main

main(prog_name="mcp-tornado")
