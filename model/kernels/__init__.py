"""Faster ways to compute the network: C on CPUs, Triton and recorded steps on GPUs, 8-bit weights."""
