"""Measurements that anybody can repeat; docs/benchmarks.md holds results."""
