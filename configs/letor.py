"""Any LETOR-style folder that `tfr-pipeline convert` filled.

    tfr-pipeline train --config=configs/letor.py:best \
        --config.data.dir=DIR --config.model_dir=OUT

Arguments: `best`, the recipe that ranks best, see docs/results.md, which is also what
comes without an argument; `dnn`, a plain feed-forward network over all features; `gam`,
one small network a feature, whose scores can be read off feature by feature; `dasalc`,
which looks at a document beside the others of its list, as large as in its paper;
`attention`, a smaller one of that kind; `tabm`, many networks that share their weights;
`dcn`, deep & cross; `builder`, a model builder of your own, named by
`--config.model.builder=module:callable`.

NDCG@10 on kept-aside folds of real data, beside trees, and what a run takes: see
docs/results.md.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

SCORERS = {
    "dnn": {
        "hidden_layer_dims": (64, 32),
        "activation": "relu",
        "input_batch_norm": True,
        "use_batch_norm": True,
        "batch_norm_moment": 0.9,
        "dropout": 0.3,
    },
    "gam": {
        "example_hidden_layer_dims": (16, 8),
        "activation": "relu",
        "use_batch_norm": False,
        "dropout": 0.0,
        # A LETOR vector is many features, each with a network of its own.
        "per_column": True,
    },
    # Qin et al., ICLR 2021, on MSLR-WEB30K.
    "dasalc": {
        "hidden_layer_dims": (512, 512),
        "num_heads": 2,
        "head_size": 100,
        "num_layers": 4,
        "dropout": 0.4,
        "input_noise_stddev": 1.5,
        "batch_norm_moment": 0.9,
    },
    "attention": {
        "hidden_layer_dims": (64, 32),
        "num_heads": 2,
        "head_size": 64,
        "num_layers": 1,
        "dropout": 0.3,
        "input_noise_stddev": 0.0,
    },
    # Gorishniy et al., ICLR 2025.
    "tabm": {
        "k": 16,
        "hidden_layer_dims": (128, 128, 128),
        "activation": "relu",
        "dropout": 0.2,
    },
    # The same in smaller, with noise.
    "best": {
        "k": 8,
        "hidden_layer_dims": (128, 128, 128),
        "activation": "relu",
        "dropout": 0.3,
        "input_noise_stddev": 0.2,
    },
    # Wang et al., WWW 2021.
    "dcn": {
        "hidden_layer_dims": (128, 128),
        "cross_layers": 2,
        "structure": "parallel",
        "activation": "relu",
        "use_batch_norm": True,
        "dropout": 0.3,
    },
}
# Of the inputs; "log1p" of others.
PREPROCESS = {
    "dnn": "quantile_normal",
    "gam": "quantile_normal",
    "tabm": "quantile_normal",
    "dcn": "quantile_normal",
    "dasalc": "quantile_normal",
    # What a value is beside all others, and beside those of its list.
    "best": ("quantile_normal", {"list_quantile_normal": True}),
}


def get_config(model: str = "best") -> ConfigDict:
    """Returns the config of an experiment with one of `SCORERS`, or with `builder`."""
    if model not in (*SCORERS, "builder"):
        known = f"{', '.join(SCORERS)} or builder"
        raise ValueError(f"expected {known}, found {model!r}")
    config = ConfigDict()
    config.model_dir = placeholder(str, required=False)
    config.seed = 42

    config.data = ConfigDict()
    config.data.dir = placeholder(str)
    # Instead of `dir`: globs, and the path of features.json.
    config.data.train = placeholder(str)
    config.data.valid = placeholder(str)
    config.data.test = placeholder(str)
    config.data.features = placeholder(str)
    config.data.train_batch_size = 16
    config.data.valid_batch_size = 64
    config.data.documents_per_batch = placeholder(int)
    config.data.list_size = placeholder(int)
    # What is left of training lists longer than list_size: "first", "sample", or the
    # name of a feature whose highest values are kept.
    config.data.truncation = "first"
    config.data.shuffle_examples = False
    # Of the files: "auto" looks at them.
    config.data.input_format = "auto"
    config.data.compression = "auto"
    config.data.shuffle = True
    # "memory", "disk", or a folder, where the next run finds parsed data.
    config.data.cache = "auto"
    # Of several workers each reads its own share of the lists: "none": never, "lists":
    # always, "files": always, and whole files; "auto": where data is large.
    config.data.sharding = "auto"
    config.data.keep_document_ids = False  # errors then name documents, too

    config.model = ConfigDict()
    if model == "builder":
        config.model.builder = "builders.letor:LetorModelBuilder"
        config.model.builder_args = ConfigDict()
    else:
        config.model.name = "letor"
        config.model.scorer = "tabm" if model == "best" else model
        config.model.scorer_args = ConfigDict(SCORERS[model])
        config.model.preprocess = PREPROCESS.get(model, "log1p")

    config.pipeline = ConfigDict()
    config.pipeline.num_epochs = 40
    config.pipeline.steps_per_epoch = placeholder(int)
    config.pipeline.steps_per_execution = 10
    config.pipeline.precision = placeholder(str)
    # Softmax over the gains of NDCG: the best of those we tried, and the fastest.
    config.pipeline.loss = "gain_softmax_loss"
    config.pipeline.loss_args = ConfigDict()
    config.pipeline.optimizer = "adam"
    config.pipeline.optimizer_args = ConfigDict()
    config.pipeline.learning_rate = 0.003
    config.pipeline.schedule = ConfigDict({"name": "constant", "warmup_steps": 0})
    config.pipeline.metrics = ("ndcg_1", "ndcg_5", "ndcg_10")
    config.pipeline.training_metrics = False
    config.pipeline.export_best_model = True
    config.pipeline.best_exporter_metric = "ndcg_10"
    config.pipeline.best_exporter_metric_higher_better = True
    config.pipeline.early_stopping_patience = 15
    config.pipeline.checkpoint_every_steps = placeholder(int)
    config.pipeline.checkpoint_every_seconds = 600.0  # 0 saves after epochs only
    config.pipeline.strategy = "MirroredStrategy"
    config.pipeline.tpu = ""  # "local" for TPUStrategy
    if model in ("dasalc", "attention"):
        # Attention takes memory with the square of the longest list.
        config.data.list_size = 200
        config.pipeline.learning_rate = 0.001
    elif model in ("tabm", "best"):
        config.data.train_batch_size = 32
        config.pipeline.optimizer = "adamw"
        config.pipeline.optimizer_args.weight_decay = 3e-4
        config.pipeline.optimizer_args.global_clipnorm = 1.0
        config.pipeline.learning_rate = 0.002
    if model == "best":
        config.data.train_batch_size = 16
        # The last model, not the best by validation: with a rate that falls to 0 it is
        # the better one, for a few hundred queries choose an epoch by luck.
        config.pipeline.num_epochs = 80
        config.pipeline.export_best_model = False
        config.pipeline.early_stopping_patience = 0
        # Whoever lets validation choose says by what, too.
        config.pipeline.best_exporter_metric = "loss"
        config.pipeline.best_exporter_metric_higher_better = False
        config.pipeline.optimizer_args.weight_decay = 0.1
        config.pipeline.learning_rate = 0.0015
        config.pipeline.schedule = ConfigDict({"name": "cosine", "warmup_steps": 20})
    return config


def get_sweep(hyper, model: str = "best"):
    """Returns what `tfr-pipeline sweep` tries, with one of `SCORERS` or `builder`."""
    rates, batches = (3e-4, 3e-2), [8, 16, 32, 64]
    if model in ("tabm", "best"):
        rates, batches = (3e-4, 1e-2), [16, 32, 64]
    elif model == "dnn":
        # Of sixty random settings on training queries of yandex_letor, rates below
        # 0.001 were the worst, and batches of 8 no better and slower.
        rates, batches = (1e-3, 5e-2), [16, 32, 64]
    parts = [
        hyper.interval("pipeline.learning_rate", *rates, log=True),
        hyper.categorical("data.train_batch_size", batches),
    ]
    if model == "dnn":
        dims = [(64, 32), (128, 64), (256, 128), (256, 128, 64)]
        losses = ["gain_softmax_loss", "approx_ndcg_loss", "lambda_loss"]
        parts += [
            hyper.categorical("model.scorer_args.hidden_layer_dims", dims),
            hyper.interval("model.scorer_args.dropout", 0.0, 0.6),
            hyper.categorical("pipeline.loss", losses),
            hyper.when(
                "pipeline.loss",
                "approx_ndcg_loss",
                hyper.interval("pipeline.loss_args.temperature", 0.03, 1.0, log=True),
            ),
        ]
    elif model == "gam":
        dims = [(8,), (16, 8), (32, 16)]
        parts += [
            hyper.categorical("model.scorer_args.example_hidden_layer_dims", dims),
            hyper.interval("model.scorer_args.dropout", 0.0, 0.3),
        ]
    elif model == "dasalc":
        parts += [
            hyper.discrete("model.scorer_args.num_layers", [2, 3, 4]),
            hyper.interval("model.scorer_args.dropout", 0.1, 0.6),
            hyper.interval("model.scorer_args.input_noise_stddev", 0.0, 2.0),
        ]
    elif model == "attention":
        parts += [
            hyper.discrete("model.scorer_args.num_layers", [1, 2, 3]),
            hyper.categorical("model.scorer_args.head_size", [32, 64, 100]),
            hyper.interval("model.scorer_args.dropout", 0.0, 0.6),
        ]
    elif model in ("tabm", "best"):
        dims = [(64, 64), (128, 128), (128, 128, 128), (256, 256)]
        parts += [
            hyper.discrete("model.scorer_args.k", [8, 16, 32]),
            hyper.categorical("model.scorer_args.hidden_layer_dims", dims),
            hyper.interval("model.scorer_args.dropout", 0.0, 0.5),
            hyper.interval("pipeline.optimizer_args.weight_decay", 1e-5, 1e0, log=True),
        ]
    elif model == "dcn":
        parts += [
            hyper.discrete("model.scorer_args.cross_layers", [1, 2, 3]),
            hyper.categorical("model.scorer_args.structure", ["parallel", "stacked"]),
            hyper.interval("model.scorer_args.dropout", 0.0, 0.6),
        ]
    # A trial that is worse after some epochs than half of the others were does not go
    # on; the first ones are measured to their end.
    patience = {"n_startup_trials": 8, "n_warmup_steps": 5}
    return hyper.study(
        hyper.product(*parts),
        metric="ndcg@10",
        pruner="median",
        pruner_args=patience,
        trials=40,
    )
