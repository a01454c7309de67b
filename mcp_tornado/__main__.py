"""Run `mcp-tornado` as `python -m mcp_tornado`."""

from mcp_tornado.commands import main

main(prog_name="mcp-tornado")
