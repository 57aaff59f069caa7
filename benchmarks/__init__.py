"""What a run costs, beside Ray's own ways to start a cluster; see docs/performance.md."""
