"""Recipes in the files of frameworks: read, recognise, and write back for another batch size.

A format says where its framework keeps each part of a recipe, and what it takes for a part that is left out. One reader
serves them all.
"""

import copy
import math
import re
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from adasde.common import InputError, read_text
from adasde.scaling.documents import LARGEST, Place, dotted, edited, number_of, parsed, path_of, put, value_at, walk
from adasde.scaling.recipe import Recipe, named_parts, recipe_of
from adasde.scaling.recipe_formats import FORMATS, Draft, Format

SHARES = ("accumulation", "per_device")  # what can take up a change of the batch in a file

_WHOLE = ("batch_size", "per_device", "accumulation", "devices", "steps", "warmup_steps")
_SWITCHES = ("decoupled", "amsgrad", "centered", "caution")
# Names that speak of a rate, of a decay per step or of a number of steps.
_SUSPECT = re.compile(
    r"(^|_)(lr|lrs|learning_rate|steps?|iters?|iterations?|interval|delay|offset|warmup|momentum|mom|ema|decay|"
    r"timescale|betas?[123]?)(_|$)"
)


@dataclass(frozen=True)
class RecipeFile:
    """A recipe, and where each part of it stands in the document that it was read from.

    Args:
        recipe: The recipe.
        optimizer: Name of the optimizer: adam, adamw, nadam or rmsprop.
        title: Name of the format, for people.
        batch: How the batch is composed, for people.
        assumed: Defaults that were taken for what the document leaves out, by part.
        whose: Whose defaults these are.
        notes: What the reader of the document should know: values that do not change though they may have to.
        document: The document.
        text: The text of the file, or an empty one.
        places: Paths of each part in the document; those of parts that it leaves out come from the format.
        shares: Examples per device and pass, and passes per step; None where the document does not say.
    """

    recipe: Recipe
    optimizer: str
    title: str
    batch: str
    assumed: Mapping[str, float]
    whose: str
    notes: tuple[str, ...]
    document: Mapping[str, Any]
    text: str
    places: Mapping[str, tuple[Place, ...]]
    shares: Mapping[str, int | None]

    def changes(self, new: Recipe, by: str = "accumulation") -> dict[Place, Any]:
        """Return what a recipe for another batch size changes in the document.

        Args:
            new: `recipe`, scaled.
            by: What takes up the change of the batch: ``accumulation`` (default) or ``per_device``.

        Returns:
            New values by path. Numbers have 14 digits, so that 0.6 is not 0.6000000000000001.

        Raises:
            InputError: If ``by`` is neither of the two, or if the number of passes, or of examples per device, would
                not be whole.
        """
        if by not in SHARES:
            raise InputError(f"by = {by!r}: must be {' or '.join(SHARES)}")
        before, after = self.recipe.parts(), new.parts()
        changed = self._batch(new, by)
        for part, value in after.items():
            if part in ("batch_size", "decoupled") or value == before[part]:
                continue
            for path in self.places[part]:
                if isinstance(value, tuple):
                    changed |= {(*path, index): item for index, item in enumerate(value)}
                else:
                    changed[path] = value if isinstance(value, int) else float(f"{value:.14g}")
        return changed

    def _batch(self, new: Recipe, by: str) -> dict[Place, Any]:
        kappa = Fraction(new.batch_size, self.recipe.batch_size)
        if kappa == 1:
            return {}
        total: dict[Place, Any] = dict.fromkeys(self.places.get("batch_size", ()), new.batch_size)
        share = self.shares[by]
        if share is None:  # follows from the whole batch
            return total
        if (share * kappa).denominator > 1:
            raise InputError(self._not_whole(by, share, kappa))
        return total | dict.fromkeys(self.places[by], int(share * kappa))

    def _not_whole(self, by: str, share: int, kappa: Fraction) -> str:
        (other,) = (name for name in SHARES if name != by)
        value = self.shares[other]
        advice = f"a batch that is a multiple of {self.recipe.batch_size // share} would do"
        if value is not None and (value * kappa).denominator == 1:
            advice += f", and so would by = {other}, which makes {dotted(self.places[other][0])} {value * kappa}"
        change = f"{dotted(self.places[by][0])} = {share} would become {float(share * kappa):g}"
        return f"kappa = {float(kappa):g}: {change}, which is not whole; {advice}"

    def replaced(self, new: Recipe, by: str = "accumulation") -> dict[str, Any]:
        """Return the new values of the document's outermost keys that `changes` touches; its arguments and errors."""
        values: dict[str, Any] = {}
        for path, value in self.changes(new, by).items():
            key = str(path[0])
            if key not in values:
                values[key] = copy.deepcopy(self.document.get(key))
            put(values, path, value)
        return values

    def written(self, new: Recipe, by: str = "accumulation") -> str:
        """Return the text of the file with the values of another batch size, and everything else as it was.

        Args:
            new: `recipe`, scaled.
            by: What takes up the change of the batch: ``accumulation`` (default) or ``per_device``.

        Raises:
            InputError: As `changes`, and if the text cannot be changed in place.
        """
        wanted = {**self.document, **self.replaced(new, by)}  # first, since it refuses what cannot be changed
        text = edited(self.text, self.changes(new, by))
        try:
            same = parsed(text, "the new file") == wanted
        except InputError:
            same = False
        if not same:
            raise InputError("recipe: its text cannot be changed in place (anchors in YAML, say); edit it by hand")
        return text


def read_recipe(path: str | Path, format: str | None = None, devices: int | None = None) -> RecipeFile:
    """Return the recipe in a file of YAML or JSON.

    Args:
        path: The file.
        format: Name of its format, one of `FORMATS`; None (default) to tell it by the keys.
        devices: Devices that share the batch; None (default) for what the file says, or 1.

    Raises:
        InputError: If the file is neither YAML nor JSON, or as `recognised`.

    Source: ours.
    """
    text = read_text(path, LARGEST, newline="")  # line ends are written back as they are
    return recognised(parsed(text, path), format, devices, text)


def recognised(document: Any, format: str | None = None, devices: int | None = None, text: str = "") -> RecipeFile:
    """Return the recipe in a document.

    Args:
        document: What the file says: dictionaries, lists, numbers and strings.
        format: Name of its format, one of `FORMATS`; None (default) to tell it by the keys.
        devices: Devices that share the batch; None (default) for what the document says, or 1.
        text: Text of the file, if the recipe is to be written back.

    Raises:
        InputError: If the document fits no format or several, if its optimizer is not covered, if something that the
            rule needs is missing, of the wrong type or out of range, or if two keys disagree.

    Source: ours.
    """
    if not isinstance(document, dict):
        raise InputError("recipe: must be a mapping, such as {optimizer: adam, lr: 1e-3, ...}")
    form = _format_of(document, format)
    _refuse_auto(document, form)
    draft = Draft(document, _optimizer(document, form), dict(form.defaults))
    if form.strict:
        _refuse_unknown(draft, form)
    for part, keys in form.keys.items():
        if part != "optimizer":
            draft.values[part], draft.places[part] = _value(document, part, keys, form.strict)
            if draft.values[part] is None and any(value_at(document, key) is not None for key in keys):
                draft.defaults.pop(part, None)  # it is there, and switched off
    _read_further(draft, form)
    batch, words = _compose(draft, form, devices)
    if form.special:
        form.special(draft, batch)
    _refuse_options(draft)
    notes = (*draft.notes, *_unhandled(document, form))
    parts = [part for part in named_parts(draft.optimizer) if part != "batch_size"]
    given = {part: draft.values.get(part) for part in parts}
    for part, default in draft.defaults.items():
        if default is None and given[part] is None:
            raise InputError(f"{form.keys[part][0]}: missing in the recipe")
    given |= {"batch_size": batch, "rates": draft.rates, "counts": draft.counts}
    own = {part: default for part, default in draft.defaults.items() if part in parts}
    recipe, assumed = recipe_of(draft.optimizer, given, own)
    assumed |= draft.assumed
    shares = {part: draft.values[part] for part in SHARES}
    return RecipeFile(
        recipe, draft.optimizer, form.title, words, assumed, form.whose, notes, document, text, draft.places, shares
    )


def _format_of(document: Mapping[str, Any], name: str | None) -> Format:
    if name is not None:
        if name not in FORMATS:
            raise InputError(f"format = {name!r}: must be one of {', '.join(FORMATS)}")
        return FORMATS[name]
    marks = {
        name: mark
        for name, form in FORMATS.items()
        for mark in reversed(form.marks)
        if any(True for _ in walk(document, mark.split(".")))
    }
    if len(marks) > 1:
        found = " and of ".join(f"{name} ({mark})" for name, mark in marks.items())
        raise InputError(f"recipe: has keys of {found}; add --format NAME, one of {', '.join(FORMATS)}")
    return FORMATS[next(iter(marks), "adasde")]


def _refuse_auto(document: Mapping[str, Any], form: Format) -> None:
    keys = [key for keys in form.keys.values() for key in keys] + [*form.rates, *form.counts]
    places = (place for key in keys for place in walk(document, key.split(".")))
    found = dict.fromkeys(dotted(path) for path, value in places if value == "auto")
    if found:
        raise InputError(
            f"{', '.join(found)} = 'auto': transformers' Trainer fills it in from its own arguments; scale these "
            "(TrainingArguments.to_json_string) instead, or give numbers here"
        )


def _optimizer(document: Mapping[str, Any], form: Format) -> str:
    keys = form.keys["optimizer"]
    key = next((key for key in keys if value_at(document, key) is not None), keys[0])
    name = value_at(document, key) or form.defaults.get("optimizer")
    lowered = name.lower() if isinstance(name, str) else ""
    if lowered in form.optimizers:
        return form.optimizers[lowered]
    shown = f"{key}: missing in the recipe;" if name is None else f"{key} = {reprlib.repr(name)}:"
    if re.search(r"8bit|4bit|fp8|paged|bnb|bitsandbytes|torchao", lowered):
        why = "its state is quantised or paged and cannot be carried over exactly"
        raise InputError(f"{shown} {why}; use {form.advice}")
    names = ", ".join(form.optimizers)
    raise InputError(f"{shown} must be one of {names}, since the rule for others is unknown; use {form.advice}")


def _refuse_unknown(draft: Draft, form: Format) -> None:
    names = named_parts(draft.optimizer)
    parts = [*names, "optimizer", "per_device", "accumulation", "devices"]
    keys = {key.split(".")[0] for part in parts for key in form.keys[part]} | {*form.rates, *form.counts}
    for key in draft.document:
        if key not in keys:
            raise InputError(f"{key}: unknown; a recipe of {draft.optimizer} has {', '.join(names)}")


def _value(
    document: Mapping[str, Any], part: str, keys: tuple[str, ...], strict: bool
) -> tuple[Any, tuple[Place, ...]]:
    """Return the value of a part, or None, and the paths that hold it, or would."""
    found: dict[Place, Any] = {}
    empty: list[Place] = []
    for key in keys:
        for path, raw in walk(document, key.split(".")):
            if raw is None:
                empty.append(path)
            elif (value := _typed(part, dotted(path), raw, strict)) is not None:
                found[path] = value
        if key.endswith(".0"):
            _check_pair(document, key.removesuffix(".0"))
    if len(set(found.values())) > 1:
        words = ", ".join(f"{dotted(path)} = {value:g}" for path, value in found.items())
        raise InputError(f"{words}: these mean the same and disagree; keep one")
    if found:
        return next(iter(found.values())), tuple(found)
    return None, (empty[0] if empty else path_of(keys[0]),)


def _check_pair(document: Mapping[str, Any], key: str) -> None:
    for path, value in walk(document, key.split(".")):
        if value is not None and not (isinstance(value, list | tuple) and len(value) == 2):
            raise InputError(f"{dotted(path)} = {reprlib.repr(value)}: must be two numbers, such as [0.9, 0.999]")


def _typed(part: str, key: str, raw: Any, strict: bool = True) -> Any:
    """Return a document's value in the type that a recipe has for it, or None if it says that there is no such part.

    Frameworks say so with 0, -1 or a share of the run; in our own format such a value is a mistake.
    """
    if part in _SWITCHES:
        if isinstance(raw, bool):
            return raw
        raise InputError(f"{key} = {reprlib.repr(raw)}: must be true or false")
    if part == "milestones":
        if not isinstance(raw, list) or any(type(number) is not int for number in raw):
            raise InputError(f"milestones = {reprlib.repr(raw)}: must be a list of whole numbers")
        return tuple(raw)
    number = number_of(key, raw, finite=part != "clip")
    if part == "clip" and (not strict or number == math.inf):
        return number if 0.0 < number < math.inf else None
    if part in ("steps", "warmup_steps") and number < 1 and (not strict or number == 0):
        return None
    if part not in _WHOLE:
        return number
    if number != int(number):
        raise InputError(f"{key} = {reprlib.repr(raw)}: must be a whole number")
    return int(number)


def _read_further(draft: Draft, form: Format) -> None:
    """Add the further rates and numbers of steps, by dotted key. Zeros, shares of the run and nulls are left out."""
    for keys, least in ((form.rates, 0.0), (form.counts, 1.0)):
        for path, raw in (place for key in keys for place in walk(draft.document, key.split("."))):
            key = dotted(path)
            if raw is None or (number := number_of(key, raw)) < least or number == 0.0:
                continue
            draft.places[key] = (path,)
            if keys is form.rates:
                draft.rates[key] = number
            else:
                draft.counts[key] = _typed("steps", key, raw)


def _compose(draft: Draft, form: Format, devices: int | None) -> tuple[int, str]:
    """Return the batch of a step, and words for how it is composed. Put the shares of it into the draft's values."""
    values, places = draft.values, draft.places
    listed = values.get("devices")
    if devices is not None and listed not in (None, devices):
        raise InputError(f"devices = {devices}: the recipe has {dotted(places['devices'][0])} = {listed}")
    values["devices"] = listed if devices is None else devices
    for part in ("batch_size", *SHARES, "devices"):
        if values.get(part) is not None and values[part] < 1:
            name = dotted(places[part][0]) if part in places else part
            raise InputError(f"{name} = {values[part]}: must be a whole number >= 1")
    usual = draft.defaults.pop("per_device", None)
    if values.get("batch_size") is not None:
        return _whole_batch(draft, form)
    places.pop("batch_size", None)  # the document does without
    if values["per_device"] is None and usual is not None:
        values["per_device"] = draft.assumed[form.keys["per_device"][0]] = usual
    if values["per_device"] is None:
        keys = [form.keys[part][0] for part in ("batch_size", "per_device") if part in form.keys]
        raise InputError(f"{' or '.join(keys)}: missing in the recipe")
    values["accumulation"] = values["accumulation"] or 1
    told = "" if values["devices"] else " (--devices N if there are more)"
    return _product(values["per_device"], values["accumulation"], values["devices"] or 1, told)


def _whole_batch(draft: Draft, form: Format) -> tuple[int, str]:
    """Return the batch and words for it, as `_compose`, where the document has the batch of a whole step."""
    values, key = draft.values, dotted(draft.places["batch_size"][0])
    total, given = values["batch_size"], [values[part] for part in (*SHARES, "devices")]
    product = math.prod(value or 1 for value in given)
    if total % product or (all(given) and total != product):
        shares = "accumulation, micro-batch and devices"
        raise InputError(f"{key} = {total}: {shares} make {product}, which does not fit; correct one of them")
    if form.strict and key == "batch_size" and any(given) and not values["per_device"]:
        names = "micro_batch_size or global_batch_size"
        raise InputError(f"batch_size = {total}: is it that of one pass or of the whole step? Name it {names}")
    passes, one, _ = given
    if passes and one:
        return _product(one, passes, total // (one * passes))
    if not (form.strict or passes or one):
        values["accumulation"] = 1  # what DeepSpeed takes
    return total, f"{total} ({key})"


def _product(one: int, passes: int, ranks: int, told: str = "") -> tuple[int, str]:
    devices = "device" if ranks == 1 else "devices"
    batch = one * passes * ranks
    return batch, f"{batch} = {one} per device x {passes} accumulated x {ranks} {devices}{told}"


def _refuse_options(draft: Draft) -> None:
    """Raise an InputError for an option that makes of the optimizer another one."""
    options = ("centered", "momentum") if draft.optimizer == "rmsprop" else ("amsgrad", "caution")
    for option in options:
        if draft.values.get(option):
            key = dotted(draft.places[option][0])
            raise InputError(
                f"{key} = {draft.values[option]}: the rule is for {draft.optimizer} without; train without it first"
            )


def _unhandled(document: Mapping[str, Any], form: Format) -> list[str]:
    """Return a note on numbers that may be rates or counts of steps, and that nothing here changes."""
    handled = {key for keys in form.keys.values() for key in keys} | {*form.rates, *form.counts}
    found = []
    for path, value in _leaves(document, (), set()):
        key, general = dotted(path), ".".join("*" if isinstance(part, int) else part for part in path)
        if form.strict or {key, general} & handled or form.harmless.intersection(path):
            continue
        name = next((part for part in reversed(path) if isinstance(part, str)), "")
        scheduled = any(key.startswith(f"{schedule}.") for schedule in form.schedules)
        if (scheduled or _SUSPECT.search(name)) and _is_count(value):
            found.append(f"{key} = {value}")
    return [f"not changed, though it may be a rate or a number of steps: {', '.join(found)}"] if found else []


def _leaves(node: Any, path: Place, seen: set[int]) -> Iterator[tuple[Place, Any]]:
    """Yield the paths and values of what is neither a mapping nor a list. What YAML's anchors repeat comes once."""
    if not isinstance(node, dict | list | tuple):
        yield path, node
    elif id(node) not in seen:
        seen.add(id(node))
        for key, item in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _leaves(item, (*path, key), seen)


def _is_count(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and isinstance(value, int | float | str) and 0.0 < float(value) < math.inf
    except (ValueError, OverflowError):
        return False
