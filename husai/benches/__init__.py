"""External benchmarks rebuilt on our own models: SAEBench-style and CE-style scores."""
