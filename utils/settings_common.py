"""The settings of a run whatever its method: files, model, data and prompt."""

from __future__ import annotations

from dataclasses import dataclass

from utils.option import option


@dataclass(frozen=True)
class CommonSettings:
    """Settings that come first in the list."""

    config: str = option("configs/digits.yaml", "run", "dataset YAML; its keys are the other flags' names")
    dataset: str = option("", "run", "dataset key; without --config, configs/NAME.yaml is used")
    root_path: str | None = option(None, "run", "dataset root in CoOp's layout, or the folder of --dataset folder", kind=str)
    output_dir: str = option("outputs", "run", "root of the run folders")
    run_name: str = option("", "run", "adds a folder level, for variants of a setting")
    dataset_name: str = option("", "run", "name of an image folder in paths and tables; empty: the folder's own name")
    seed: int = option(1, "run", "seed of every random draw", low=0)
    device: str = option("auto", "run", "auto, cpu, cuda, cuda:1 …")
    threads: int = option(
        0, "run", "CPU threads; 0 = PyTorch default. Changing it changes the last digits of results", low=0, high=1024
    )
    overwrite: bool = option(False, "run", "delete the run that is in the run folder and start over")
    save_every: int = option(10, "run", "steps between checkpoints", low=1)
    max_seconds: int = option(
        0, "run", "time limit in seconds: stop before a step that would exceed it (resumable); 0 = none", low=0
    )
    deterministic: bool = option(False, "run", "deterministic kernels only (slower; has an effect on GPUs only)")
    passes_multiple: int = option(
        1,
        "run",
        "passes per batch of queries are rounded up to a multiple of this, so that as many ranks have equal work (docs/scale.md)",
        low=1,
        high=100_000,
    )
    rank_timeout: int = option(
        600, "run", "seconds after which a rank that does not answer the others ends a run on several ranks", low=1, high=10**6
    )
    save_model: bool = option(True, "run", "write prompt.safetensors")
    confusion: bool = option(
        False, "run", "write the confusion matrix of the test images, confusion.csv and confusion.png; also of a finished run"
    )
    logger: str = option(
        "none", "run", "also send metrics.jsonl to none, tensorboard, wandb, or several, comma-separated (docs/runs.md)"
    )

    backbone: str = option(
        "ViT-B/16",
        "model",
        "Mini, Mini-RN, Icons, Icons-RN, RN50, RN101, ViT-B/32, ViT-B/16, an open_clip NAME or NAME@TAG",
    )
    checkpoint: str | None = option(None, "model", "local weights: OpenAI TorchScript, open_clip .pt, safetensors", kind=str)
    trust_checkpoint: bool = option(False, "model", "allow a TorchScript file that is not OpenAI's to run its code")
    precision: str = option(
        "auto",
        "model",
        "of text passes; auto: float64 where a finite-difference step is below 1e-4, else float32",
        choices=("auto", "float32", "float64", "bfloat16", "float16"),
    )
    tangent_precision: str = option(
        "auto",
        "model",
        "of tangents in forward mode; auto: bfloat16 with AMX, AVX512-BF16 or tensor cores, else float32",
        choices=("auto", "float32", "bfloat16"),
    )
    engine: str = option(
        "fast", "model", "text features: with shared work, or by open_clip's tower on whole prompts", choices=("fast", "stock")
    )
    memory_limit: int = option(
        0, "model", "MiB for the activations of one pass; 0 = 1024 on a CPU, 4096 on a GPU", low=0, high=1 << 30
    )
    tower_weights: str = option(
        "float32",
        "model",
        "how the frozen text tower's matrices are stored; int8: one scale per output channel (docs/memory.md)",
        choices=("float32", "bfloat16", "int8"),
    )
    batch_size: int = option(256, "model", "images per pass through the image tower", low=1)

    shots: int = option(16, "data", "training images per class", low=1)
    short_classes: str = option(
        "error", "data", "class with fewer images than shots: refuse it, or take all it has", choices=("error", "take-all")
    )
    split_file: str | None = option(
        None, "data", "few-shot list to use instead of a draw, in the form of a run's split.json", kind=str
    )
    subsample_classes: str = option(
        "all", "data", "which half of the classes, cut after the draw", choices=("all", "base", "new")
    )
    template: str | None = option(None, "data", "zero-shot template with {} for the class name; default: the dataset's", kind=str)
    augment_views: int = option(0, "data", "random crops per training image; 0 = the deterministic transform", low=0, high=10_000)
    cache: bool = option(True, "data", "cache image features on disk")
    cache_dir: str | None = option(
        None, "data", "folder of that cache; default: ~/.cache/sharpzo ($XDG_CACHE_HOME/sharpzo)", kind=str
    )

    ensemble: bool = option(False, "data", "zero-shot by the mean feature of CLIP's seven ImageNet templates and the template")

    ctx_init: str = option(
        "a photo of a", "prompt", "words that initialize the context tokens; empty = n_ctx random vectors, N(0, 0.02²)"
    )
    n_ctx: int = option(4, "prompt", "number of context tokens, where ctx_init is empty", low=1, high=70)
    class_token_position: str = option(
        "end", "prompt", "position of the class name among the context tokens", choices=("end", "middle", "front")
    )
    intrinsic_dim: int = option(512, "prompt", "d, length of the trained vector w", low=1, high=10_000)
    std: float = option(1.0, "prompt", "standard deviation of the projection A; for bpt-vlm a factor on its own scale", above=0.0)
    init_std: float = option(0.02, "prompt", "standard deviation of the first w", low=0.0)
    prompt_space: str = option(
        "projected",
        "prompt",
        "w is a vector of d numbers that A projects, or the n_ctx × width offset of the context itself (no A)",
        choices=("projected", "full"),
    )
