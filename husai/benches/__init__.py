"""External benchmarks of SAEs, in-house or in their own environment, beside baselines that a delta needs."""
