"""The forward pass in C for CPUs with AVX-512, compiled on the machine that runs it.

`forward.c` is the kernel, with `products_amx.h`, `products_bf16.h` or `products_int16.h` by what the CPU multiplies
(8-bit weights: `int8.h`, `products_int8.h`), `activations.h` and `attention.h`. `library` compiles and finds it,
`structures` and `packing` describe what it is given, and `support` says where it cannot run (another CPU, another type,
no compiler).
`backends/native.py` calls it.
"""
