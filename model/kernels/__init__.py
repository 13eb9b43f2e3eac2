"""What backends compute with: C for CPUs, Triton and recorded steps for GPUs, weights in other forms."""
