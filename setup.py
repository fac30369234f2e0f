"""memjax: generative models with memory, in JAX."""

from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent

RUNTIME = [
    "array-record>=0.8",
    "chex>=0.1.90",
    "distrax>=0.1.7",
    "etils[epath]>=1.9",
    "flax>=0.12,<0.13",
    "importlib_resources",  # tensorflow-datasets imports it without declaring it
    "jax>=0.10,<0.13",
    "jinja2>=3.1",
    "matplotlib>=3.9",
    "numpy>=2.0",
    "optax>=0.2.5,<0.3",
    "orbax-checkpoint>=0.11,<0.13",
    "pillow>=10",
    "scikit-learn>=1.5",
    "scipy>=1.13",
    "tensorboardX>=2.6",
    "tensorflow-datasets>=4.9.7,<4.10",
    "tqdm>=4.66",
    "typeguard>=4.4",
    "tyro>=0.9",
]
TEST = [
    "hypothesis>=6",
    "ipykernel",
    "mypy>=1.15",
    "nbclient>=0.10",
    "nbformat>=5.10",
    "packaging",
    "pytest>=8",
    "pytest-xdist>=3.6",
    "pyyaml>=6",
    "ruff>=0.9",
    "setuptools>=77",  # the wheel is built without network
]

BENCH = ["torch>=2.4", "pythae>=0.1.2"]  # the rivals; also in requirements-bench.txt

setup(
    name="memjax",
    version="0.1.0",
    description="Generative models with memory in JAX and Flax: training and evaluation of MEM-VAE",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=[
        "memjax",
        "memjax.configs",
        "memjax.data",
        "memjax.evaluation",
        "memjax.models",
        "memjax_eval",
        "memjax_train",
    ],
    # In a clone the two programs are `python -m train` and `python -m eval`; installed they take
    # names that cannot clash with anybody's own `train` or `eval`.
    package_dir={"memjax_train": "train", "memjax_eval": "eval"},
    package_data={"memjax": ["py.typed"], "memjax_eval": ["report.html"]},
    install_requires=RUNTIME,
    extras_require={"bench": BENCH, "test": TEST},
    entry_points={
        "console_scripts": [
            "memjax-train=memjax_train.__main__:main",
            "memjax-eval=memjax_eval.__main__:main",
        ]
    },
)
