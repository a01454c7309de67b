"""The benchmarks of `make bench`: each one measures one subject and compares it with its goal."""
