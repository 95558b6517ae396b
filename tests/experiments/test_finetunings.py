"""What is said of a finetuning that a config describes wrongly."""

import pytest

from adasde.common import InputError
from adasde.experiments.plan import plan

BAD = [
    ({"pretrained": "gpt2"}, "pretrained = 'gpt2': must be an experiment of wiki-roberta: roberta-adam"),
    ({"pretrained": "fashion-cnn-adam"}, "pretrained = 'fashion-cnn-adam': must be an experiment of wiki-roberta"),
    ({"workload": "wiki-roberta"}, "workload = 'wiki-roberta': does not start from pre-trained weights"),
    ({"workload": "glue-rte"}, "must be an experiment of wikibooks-roberta: none of this config"),
    (
        {"batch_size": {"value": 48, "source": "ours"}},
        "evaluate.every = 64: batch size 48 does not divide it; 192 would",
    ),
    ({"workload": "wiki-article"}, "workload = 'wiki-article': must be one of fashion-cnn, "),
    ({"seeds": {"value": 0, "source": "ours"}}, "seeds.value: 0 is less than the minimum of 1"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[str(n) for n in range(len(BAD))])
def test_a_bad_finetuning_is_one_line(config, change, message):
    config["finetunings"]["finetune-roberta"] |= change
    with pytest.raises(InputError, match=f"finetunings.finetune-roberta.*{message}"):
        plan(config)
