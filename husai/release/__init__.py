"""From studies to decisions: candidates and the evidence about them, each bound to weights and data by hash."""
