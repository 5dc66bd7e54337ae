"""Operator domains that graphs may use besides the standard one."""

CONTRIB = "com.microsoft"
