"""Several tasks on text in one model: a learned query for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..activations import Activation
from ..checking import check_class_names, check_positive, short
from ..declarations import recipe
from ..decoders import Decoder
from ..encoders import Encoder
from ..errors import AssemblyError
from ..inputs import Inputs
from ..model import PerceiverIO
from ..objectives import Classification, Regression, Weighted
from ..outputs import Classify, Outputs
from ..positions import Start
from ..queries import LearnedQuery, Queries
from . import _text
from ._shared import PAPER

GLUE = dict(cola=2, mnli=3, mrpc=2, qnli=2, qqp=2, rte=2, sst2=2, stsb=1)
"""The tasks of GLUE in Perceiver IO's table 2, and their numbers of classes; one is a number to regress."""


def _objective(model: PerceiverIO | None = None) -> Weighted:
    blocks = {} if model is None or model.outputs is None else model.outputs.blocks
    tasks = GLUE if model is None else {name: blocks[name].channels for name in blocks}
    return Weighted({name: (Regression if count == 1 else Classification)(name) for name, count in tasks.items()})


@recipe(
    presets=dict(
        base=_text.BASE,
        tiny=_text.SMALL,
        quick=_text.SMALL | dict(max_length=512, channels=64, ngrams=(3, 4, 5, 6), stride=8),
    ),
    sources=_text.SOURCES
    | dict(
        tasks=f"{PAPER}, section 4.1: GLUE, with a query for each task",
        stride=f"{_text.ORIGINAL}: a row for each byte",
    ),
    group=Encoder,
    objective=_objective,
    training=dict(steps=600, batch=32, rate=5e-4, quick=dict(steps=600, rate=1e-3)),
    data=dict(text_tasks="perceiver_kit.data.glue:text_tasks", path="perceiver_kit.data.glue:task_files"),
    random_inputs=_text.random_text,
    processor="perceiver_kit.processors.recipes:classify_tasks",
)
def multitask_text(
    *,
    tasks: Mapping[str, int | Sequence[str]] = GLUE,
    vocabulary: int = 262,
    max_length: int = 2048,
    channels: int = 768,
    position_start: Start = "normal",
    ngrams: tuple[int, ...] = (),
    buckets: int = 2**16,
    stride: int = 1,
    dropout: float = 0.0,
    activation: Activation = "gelu",
    **encoder,
) -> PerceiverIO:
    """Several tasks on one encoder of text, a learned query for each (Perceiver IO, section 4.1, multitask).

    Takes text (b, n) int64 with n ≤ ``max_length`` and returns an output for each task, named by it: (b, classes)
    logits, or (b, 1), a number. ``tasks`` gives the number of classes, or their names; 1 is a number to regress.
    Targets of other tasks than a text's own are missing (-100, NaN).

    >>> model = build("multitask_text", preset="tiny", tasks=dict(mood=("bad", "good"), topic=5, score=1))
    >>> {name: tuple(out.shape) for name, out in model({"text": torch.randint(262, (2, 100))}).items()}
    {'mood': (2, 2), 'score': (2, 1), 'topic': (2, 5)}
    """
    if not isinstance(tasks, Mapping) or not tasks:
        raise AssemblyError(f"multitask_text: tasks must map names to numbers of classes, got {short(tasks)}")
    counts: dict[str, int] = {}
    names: dict[str, tuple[str, ...]] = {}
    for task, classes in tasks.items():
        if not isinstance(classes, int):
            names[task] = check_class_names(f"multitask_text: tasks[{task!r}]", classes)
        counts[task] = classes if isinstance(classes, int) else len(names[task])
    check_positive("multitask_text: tasks", **{f"of {task}": count for task, count in counts.items()})
    inputs = Inputs(
        text=_text.text_tokens(
            vocabulary, max_length, channels, position_start, ngrams=ngrams, buckets=buckets, stride=stride
        )
    )
    encoder = Encoder(inputs.channels, dropout=dropout, activation=activation, **encoder)
    queries = Queries({task: LearnedQuery(1, encoder.latent_dim) for task in counts})
    decoder = Decoder(queries.channels, encoder.latent_dim, query_residual=True, dropout=dropout, activation=activation)
    outputs = Outputs(
        {
            task: Classify(count, in_channels=queries.channels, problem_type="regression" if count == 1 else None)
            for task, count in counts.items()
        }
    )
    return PerceiverIO(inputs, encoder, queries, decoder, outputs, labels=names)
