"""fastopt.thinc against thinc's own optimizers, and in a small training of spaCy's from its configuration."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

pytest.importorskip("thinc", reason="thinc is not installed: `pip install 'fastopt[thinc]'`")

from test_errors import says
from thinc.api import Relu, Softmax, chain, fix_random_seed
from thinc.config import registry

import fastopt
import fastopt.thinc
from fastopt.optimizers import OPTIMIZERS

SHAPES = [(4, 5), (5,), (3, 2, 2)]


def made(name, **options):
    return registry.resolve({"optimizer": {"@optimizers": name, **options}})["optimizer"]


def some(seed):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype("f") for shape in SHAPES]


def step(optimizer, weights, grads, **more):
    for i, (w, g) in enumerate(zip(weights, grads, strict=True)):
        after, zeroed = optimizer((i, "W"), w, g, **more)
        if isinstance(optimizer, fastopt.thinc.Optimizer):
            assert after is w
        weights[i] = after
        assert not zeroed.any()
        assert zeroed is g or not isinstance(optimizer, fastopt.thinc.Optimizer)


THEIRS = [
    {},
    {"learn_rate": 0.05, "beta1": 0.5, "beta2": 0.75, "eps": 1e-2, "grad_clip": 0.0},
    {"L2": 0.1},
    {"L2": 0.1, "L2_is_weight_decay": False, "grad_clip": 0.5},
    {"use_averages": False},
    {"learn_rate": {"@schedules": "warmup_linear.v1", "initial_rate": 0.1, "warmup_steps": 3, "total_steps": 9},
     "grad_clip": [0.5, 1.0, 0.0]},
]  # fmt: skip


def resolved(options):
    """Options for one optimizer: a schedule serves one only."""
    options = copy.deepcopy(options)
    if isinstance(options.get("grad_clip"), list):
        options["grad_clip"] = {"@schedules": "constant_then.v1", "rate": 0.5, "steps": 2,
                                "schedule": {"@schedules": "constant.v1", "rate": 0.0}}  # fmt: skip
    return options


@pytest.mark.parametrize("options", THEIRS, ids=str)
def test_adam_takes_thincs_steps(options):
    theirs, ours = made("Adam.v1", **resolved(options)), made("fastopt.Adam.v1", **resolved(options))
    wanted, weights = some(0), some(0)
    for t in range(8):
        grads = some(1 + t)
        step(theirs, wanted, [g.copy() for g in grads], lr_scale=0.5 if t == 3 else 1.0)
        step(ours, weights, grads, lr_scale=0.5 if t == 3 else 1.0)
        theirs.step_schedules()
        ours.step_schedules()
        for a, b in zip(weights, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=30 * (t + 1) * np.finfo("f").eps)  # roundings of about 1
    assert (ours.averages is None) == (theirs.averages is None)
    for key, average in (theirs.averages or {}).items():
        np.testing.assert_allclose(ours.averages[key], average, rtol=0, atol=30 * 8 * np.finfo("f").eps)


ONE_AT_A_TIME = [
    cls for cls in OPTIMIZERS.values() if not (cls.looks_ahead or cls._has_average() or cls.same_in_groups)
]


@pytest.mark.parametrize("cls", ONE_AT_A_TIME, ids=lambda cls: cls.__name__)
def test_every_class_is_registered_and_takes_its_steps(cls):
    ours = made(f"fastopt.{cls.__name__}.v1", learn_rate=0.05, grad_clip=0.0, use_averages=False)
    options = {"eps_hat": True} if cls is fastopt.Adam else {}  # as thinc has it
    wanted, weights = some(0), some(0)
    alone = [cls(w, lr=0.05, **options) for w in wanted]
    for t in range(3):
        for opt, g in zip(alone, some(1 + t), strict=True):
            opt.step(g)
        step(ours, weights, some(1 + t))
    assert [w.tobytes() for w in weights] == [w.tobytes() for w in wanted]


def test_options_of_a_class_come_from_the_configuration():
    ours = made("fastopt.Lion.v1", learn_rate=0.05, options={"betas": [0.5, 0.75], "weight_decay": 0.5})
    step(ours, some(0), some(1))
    opt = ours._steppers[0, "W"][0]
    assert (opt.betas, opt.weight_decay) == ((0.5, 0.75), 0.5)


def test_weights_that_thinc_replaces_are_trained():
    one, two = made("fastopt.Adam.v1"), made("fastopt.Adam.v1")
    mine, other = some(0), some(0)
    for t in range(4):
        step(one, mine, some(1 + t))
        other = [w.copy() for w in other]
        step(two, other, some(1 + t))
    assert [w.tobytes() for w in mine] == [w.tobytes() for w in other]


def test_a_model_learns_with_it():
    fix_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4)).astype("f")
    right = (x[:, 0] * x[:, 1] > 0).astype(int)
    model = chain(Relu(nO=32), Softmax(nO=2)).initialize(X=x, Y=np.eye(2, dtype="f")[right])
    optimizer = made("fastopt.RMSprop.v1", learn_rate=0.01)
    for _ in range(200):
        guess, backprop = model.begin_update(x)
        backprop((guess - np.eye(2, dtype="f")[right]) / len(x))
        model.finish_update(optimizer)
        optimizer.step_schedules()
    assert (model.predict(x).argmax(axis=1) == right).mean() > 0.95
    with model.use_params(optimizer.averages):
        assert (model.predict(x).argmax(axis=1) == right).mean() > 0.9


WRONG = [
    ({"name": "adamm", "learn_rate": 0.1}, "there is no optimizer 'adamm': did you mean 'adam'?"),
    ({"name": "nag", "learn_rate": 0.1}, "NAG looks ahead, keeps averages of its own, or …"),
    ({"name": "asgd", "learn_rate": 0.1}, "ASGD looks ahead, keeps averages of its own, or …"),
    ({"name": "prodigy", "learn_rate": 0.1}, "Prodigy looks ahead, keeps averages of its own, or …"),
    ({"name": "lion", "learn_rate": 0.1, "lr": 0.1}, "Lion has lr=0.1: thinc has arguments of its own for that"),
    (
        {"name": "lion", "learn_rate": 0.1, "clip_norm": 1.0},
        "Lion has clip_norm=1.0: thinc has arguments of its own for that",
    ),
    ({"name": "lion", "learn_rate": 0.1, "momentum": 0.5}, "Lion has no option 'momentum': …"),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=[row[1] for row in WRONG])
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises((TypeError, ValueError), match=says(message)):
        fastopt.thinc.Optimizer(**options)


def test_a_copy_goes_on_where_the_original_was():
    one, mine = made("fastopt.Adam.v1"), some(0)
    step(one, mine, some(1))
    for other in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        weights, theirs = [w.copy() for w in mine], [w.copy() for w in mine]
        step(other, weights, some(2))
        again = copy.deepcopy(one)
        step(again, theirs, some(2))
        assert [w.tobytes() for w in weights] == [w.tobytes() for w in theirs]
        assert other.nr_update[0, "W"] == 2


# ---- spaCy ----

CONFIG = """
[nlp]
lang = "en"
pipeline = ["textcat"]

[components]

[components.textcat]
factory = "textcat"

[components.textcat.model]
@architectures = "spacy.TextCatBOW.v3"
exclusive_classes = true
ngram_size = 1
no_output_layer = false
length = 262144

[corpora]

[corpora.train]
@readers = "spacy.Corpus.v1"
path = ${paths.train}

[corpora.dev]
@readers = "spacy.Corpus.v1"
path = ${paths.train}

[paths]
train = null

[training]
train_corpus = "corpora.train"
dev_corpus = "corpora.dev"
seed = 0
max_steps = 60
eval_frequency = 20

[training.optimizer]
@optimizers = "fastopt.Adam.v1"
learn_rate = 0.01
L2_is_weight_decay = true
L2 = 0.01
grad_clip = 1.0
use_averages = true
"""


@pytest.mark.filterwarnings("ignore")  # spaCy's and those of what it imports
def test_spacy_trains_from_a_configuration(tmp_path):
    spacy = pytest.importorskip("spacy", reason="spaCy is not installed: `pip install spacy` to train with it")
    from spacy.tokens import DocBin
    from spacy.training.initialize import init_nlp
    from spacy.training.loop import train
    from thinc.api import Config

    blank, rng = spacy.blank("en"), np.random.default_rng(0)
    docs = DocBin()
    for _ in range(100):
        good = bool(rng.integers(2))
        words = [*rng.choice(["a", "the", "it", "was"], 5), rng.choice(["fine", "lovely"] if good else ["bad", "dull"])]
        doc = blank(" ".join(rng.permutation(words)))
        doc.cats = {"good": float(good), "bad": float(not good)}
        docs.add(doc)
    docs.to_disk(tmp_path / "train.spacy")
    config = Config().from_str(CONFIG, overrides={"paths.train": str(tmp_path / "train.spacy")})
    nlp = init_nlp(spacy.util.load_model_from_config(config, auto_fill=True).config)
    (tmp_path / "out").mkdir()
    nlp, best = train(nlp, tmp_path / "out")
    assert nlp("it was the lovely").cats["good"] > 0.8 > 0.2 > nlp("it was the dull").cats["good"]
    assert spacy.load(best)("it was fine").cats["good"] > 0.8
