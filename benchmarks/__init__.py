"""The benchmarks behind `make bench`: each module measures one thing and holds it against its goal."""
