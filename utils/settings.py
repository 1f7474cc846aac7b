"""The list of all settings: a field of `Config` is a flag, a YAML key and a line of a run's config.yaml."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from utils.option import option
from utils.settings_common import CommonSettings


@dataclass(frozen=True)
class Config(CommonSettings):
    """Every setting of a run, resolved, with its default (the paper's), limits and help."""

    prompt_trainer: str = option("sharpzo", "method", "which optimizer")
    load_prompt: str | None = option(
        None, "method", "evaluate this prompt.safetensors of an earlier run (implies --prompt_trainer saved)", kind=str
    )
    total_steps: int = option(20_000, "method", "T, steps of both stages", low=1)
    change_point: int | str = option(
        100, "method", "T_c, first step of stage 2, or auto: by validation accuracy", kind=int, low=0, words=("auto",)
    )
    max_queries: int = option(0, "method", "stop before the step that would exceed this many queries; 0 = no limit", low=0)
    patience: int = option(
        0, "method", "end after N evaluations without a higher validation accuracy, and deploy the best; 0 = off", low=0
    )
    fidelity: str = option("paper", "method", "paper, released, or a comma-separated list of the released code's departures")

    derivatives: str = option(
        "differences",
        "method",
        "differences: the paper's; forward: --smoothness_estimator jvp and --mask_estimator jvp, unless these are set themselves",
        choices=("differences", "forward"),
    )
    objective: str = option(
        "cross-entropy",
        "method",
        "what is minimized: cross-entropy, focal loss, or the error rate (accuracy; forward-only trainers)",
        choices=("cross-entropy", "focal", "accuracy"),
    )
    focal_gamma: float = option(2.0, "method", "γ of the focal loss", low=0.0)
    stage2: str = option(
        "sparse-zo", "method", "optimizer after stage 1: sparse-zo (the paper's) or a ZO optimizer (docs/optimizers.md)"
    )

    popsize: int = option(40, "stage 1", "S, CMA-ES population", low=2, high=100_000)
    sigma: float = option(0.4, "stage 1", "σ, initial CMA-ES step", above=0.0)
    sigma_adaptation: str = option(
        "csa",
        "stage 1",
        "step-size rule of every CMA-ES: cumulative (the paper's pycma), or two-point (pycma 4.5's default from d = 300)",
        choices=("csa", "tpa"),
    )
    bound: float = option(5.0, "stage 1", "box ±bound on w in CMA-ES; 0 = none", low=0.0)
    rho: float = option(0.1, "stage 1", "ρ, sharpness radius (of zosa and zest too)", low=0.0)
    smoothness_estimator: str = option(
        "zo",
        "stage 1",
        "gradient behind ε*: CGE, one-sided CGE, RGE, forward mode, backpropagation (for comparison), or none",
        choices=("zo", "zo-forward", "rge", "jvp", "fo", "none"),
    )
    population_precision: str = option(
        "same",
        "stage 1",
        "of the text passes that score the population, whose losses CMA-ES only ranks; same: as --precision",
        choices=("same", "float32", "bfloat16", "float16"),
    )
    zo_eps_cge: float = option(1e-3, "stage 1", "μ of the gradient behind ε* (of the cge trainer too)", above=0.0)
    sharpness_queries: int = option(20, "stage 1", "q, directions of the RGE gradient behind ε*", low=1)
    smoothness_every: int = option(1, "stage 1", "generations between refreshes of ε*", low=1)

    zo_lr: float = option(1e-3, "stage 2", "η, step size (of the ZO optimizers and the fo trainer too)", above=0.0)
    zo_eps_rge: float = option(1e-3, "stage 2", "μ of the RGE gradient", above=0.0)
    num_pertub: int = option(1, "stage 2", "q, RGE samples per step (the released code's name)", low=1)
    pruning: str = option(
        "zscore", "stage 2", "score by which the mask ranks coordinates", choices=("zscore", "magnitude", "none")
    )
    prune_ratio: float = option(0.5, "stage 2", "r, fraction of the coordinates that the mask drops", low=0.0, below=1.0)
    prune_interval: int = option(200, "stage 2", "K_int, steps between mask refreshes", low=1)
    mask_estimator: str = option(
        "cge", "stage 2", "gradient behind the zscore mask: CGE, or forward mode", choices=("cge", "jvp")
    )
    zo_eps_mask: float = option(1e-5, "stage 2", "μ of the mask's CGE gradient", above=0.0)

    zo_update: str = option(
        "default",
        "ZO optimizers",
        "what an estimated gradient is turned into, e.g. cge with adam; default: the optimizer's own (docs/optimizers.md)",
        choices=("default", "sgd", "sign", "momentum", "adam", "r-adazo"),
    )
    beta1: float = option(
        0.9, "ZO optimizers", "β₁ of the momentum, adam and r-adazo updates; β of conmezo, loren", low=0.0, below=1.0
    )
    beta2: float = option(0.999, "ZO optimizers", "β₂ of the adam and r-adazo updates", low=0.0, below=1.0)
    adam_eps: float = option(1e-8, "ZO optimizers", "ε of the adam and r-adazo updates", above=0.0)
    sign_of: str = option(
        "estimate",
        "ZO optimizers",
        "zo-sign: sign of the estimate's coordinates, or of the slope alone",
        choices=("estimate", "slope"),
    )
    cge_differences: str = option(
        "central",
        "ZO optimizers",
        "cge: central (2 queries per coordinate) or forward differences (1, and one more in all)",
        choices=("central", "forward"),
    )
    cge_share: float = option(1.0, "ZO optimizers", "cge: fraction of the coordinates, drawn in each step", above=0.0, high=1.0)
    lozo_rank: int = option(2, "ZO optimizers", "r of lozo's perturbation U Vᵀ", low=1)
    lozo_interval: int = option(50, "ZO optimizers", "ν, steps that lozo keeps V", low=1)
    polystep_radius: float = option(0.5, "ZO optimizers", "ρ, distance of polystep's vertices", above=0.0)
    polystep_temperature: float = option(0.5, "ZO optimizers", "τ of polystep's softmax", above=0.0)
    polystep_particles: int = option(1, "ZO optimizers", "points that polystep moves", low=1)
    rank_points: int = option(16, "ZO optimizers", "m, points that rank-sgd ranks", low=2)
    line_search: int = option(5, "ZO optimizers", "n, points of rank-sgd's line search, including the current one", low=2)
    line_decay: float = option(0.5, "ZO optimizers", "γ, ratio of step lengths in rank-sgd's line search", above=0.0, below=1.0)

    probes: int = option(
        8,
        "ZO optimizers",
        "random directions per step of fzoo, r-adazo, zoar, zosa, loren and bszo; pairs of openai-es, zest and guided-es",
        low=1,
    )
    bias_correction: bool = option(False, "ZO optimizers", "correct the bias of the r-adazo update's moments, as Adam does")
    cone_angle: float = option(
        1.35, "ZO optimizers", "θ, conmezo's angle to the momentum; π/2 is MeZO", low=0.0, high=math.pi / 2
    )
    curvzo_share: float = option(0.4, "ZO optimizers", "curvzo: share of the coordinates at the start", above=0.0, high=1.0)
    history: int = option(5, "ZO optimizers", "H, earlier steps whose probes zoar uses again", low=0)
    guides: int = option(1, "ZO optimizers", "k, past estimates that guide guided-es", low=1)
    guide_alpha: float = option(0.5, "ZO optimizers", "α, share of guided-es' variance that is isotropic", above=0.0, high=1.0)
    guide_sigma: float = option(0.1, "ZO optimizers", "σ, length of guided-es' perturbations", above=0.0)
    tilt: float = option(1.0, "ZO optimizers", "t of zest: near 0 the mean around w, large the worst point", above=0.0)
    loren_damping: float = option(0.1, "ZO optimizers", "ρ of loren's covariance: smaller damps its direction more", above=0.0)
    loren_lr: float = option(1e-3, "ZO optimizers", "step size of loren's learned direction", low=0.0)
    bszo_alpha: float = option(0.1, "ZO optimizers", "α, rate at which bszo's noise level adapts", low=0.0, below=1.0)
    lbfgs_memory: int = option(10, "ZO optimizers", "pairs of steps that lbfgs remembers", low=1)
    lbfgs_gradient: str = option("cge", "ZO optimizers", "lbfgs: central differences, or forward mode", choices=("cge", "jvp"))

    warmup_share: float = option(
        0.2, "sharpzo+", "share of --max_queries, or of --total_steps without it, that stage 1 takes", low=0.0, high=1.0
    )
    zo_schedule: str = option(
        "cosine", "sharpzo+", "step size of stage 2 to the end of the budget", choices=("cosine", "constant")
    )

    sp_avg: int = option(5, "SPSA", "q, two-sided estimates averaged per step (the SPSA baselines' name)", low=1)
    spsa_c: float = option(0.01, "SPSA", "c of the perturbation c / k^γ", above=0.0)
    spsa_gamma: float = option(0.1, "SPSA", "γ of the perturbation c / k^γ", low=0.0)
    spsa_a: float = option(0.01, "SPSA", "a of the step size a / (k + o)^α", above=0.0)
    spsa_o: float = option(1.0, "SPSA", "o of the step size a / (k + o)^α", low=0.0)
    spsa_alpha: float = option(0.4, "SPSA", "α of the step size a / (k + o)^α", low=0.0)
    moms: float = option(0.0, "SPSA", "β of SPSA-GC's momentum (BlackVIP's name); 0 = plain SPSA", low=0.0, below=1.0)
    zo_clip: bool = option(False, "SPSA", "intrinsic-dimensional clipping: scale an estimate longer than √d down to √d")

    train_batch: int = option(128, "mini-batches", "training images per mini-batch, for trainers that use mini-batches", low=1)
    epochs: int = option(0, "mini-batches", "limit on passes over the training images; 0 = only total_steps counts", low=0)
    train_features: str = option(
        "fresh",
        "mini-batches",
        "`fresh`: re-encode augmented images; `cached`: reuse the features of the original images",
        choices=("fresh", "cached"),
    )

    deploy: str = option(
        "fresh-mean",
        "bbt, bpt-vlm, craft",
        "the solution: mean of a freshly drawn population, CMA-ES mean, or best candidate so far",
        choices=("fresh-mean", "mean", "best"),
    )

    rank: int = option(5, "zip", "r, rank of the factors of W", low=1)

    p_eps: float = option(1.0, "blackvip", "ε, size of the visual prompt (BlackVIP's name)", above=0.0)
    pt_backbone: str = option(
        "vit_base_patch16_224.mae",
        "blackvip",
        "frozen encoder, a timm name; NAME@random: that architecture, random weights; clip: CLIP's own image tower",
    )

    n_visual: int = option(5, "bpt-vlm", "visual prompt tokens", low=1)
    intrinsic_dim_v: int = option(500, "bpt-vlm", "length of the vector behind the visual tokens", low=1, high=10_000)
    deep: bool = option(False, "bpt-vlm", "prompts at the input of every layer, each with its own CMA-ES, in turn")

    lr: float = option(2e-3, "coop, craft", "step size of SGD (coop) or Adam (craft)", above=0.0)
    momentum: float = option(0.9, "coop", "SGD momentum", low=0.0, below=1.0)
    weight_decay: float = option(5e-4, "coop", "SGD weight decay", low=0.0)
    warmup_epochs: int = option(1, "coop", "first epochs at a step size of 1e-5; then cosine decay to 0", low=0)
    csc: bool = option(False, "coop", "class-specific contexts, one per class")
    adapter_dim: int = option(256, "craft", "hidden width of craft's adapter", low=1)
    consistency: float = option(0.1, "craft", "λ of craft's Kullback-Leibler term", low=0.0)
    consistency_part: int = option(4, "craft", "n: the adapter's consistency term stops after 1/n of the budget", low=1)
    normalize_adapter: bool = option(
        True, "craft", "train craft's adapter on normalized image features; the released code does not"
    )

    eval_every: int = option(10, "log", "steps between evaluations in metrics.jsonl; 0 = only at the end", low=0)
    eval_test: bool = option(False, "log", "also log test accuracy there (for curves; never influences training)")

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)
