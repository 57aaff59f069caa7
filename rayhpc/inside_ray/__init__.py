"""What runs inside Ray's own processes: the one package that uses Ray's private names.

Every use is behind names.patched(), which asks the release of Ray and the switch RAYHPC_RAY_PATCHES. Where it says no,
`ray start` does what it always does. The modules import each other at most.
"""
