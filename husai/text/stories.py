"""Contrastive stories: pairs of texts on one subject, which is extremely high in one and extremely low in the other."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from husai.config import require
from husai.tasks import generator

PUBLISHED = "GulkoA/contrastive-stories-v4"
"""The dataset of CE-Bench on the Hugging Face hub (Gulko et al. 2025, arXiv 2509.00691)."""
SUBJECTS = {
    "temperature": ("scorching blazing boiling sweltering", "freezing icy frosty frigid"),
    "noise": ("deafening roaring thunderous blaring", "silent hushed quiet soundless"),
    "light": ("dazzling brilliant radiant glaring", "dark gloomy dim unlit"),
    "speed": ("racing speeding rapid swift", "sluggish crawling slow motionless"),
    "wealth": ("wealthy rich lavish prosperous", "poor penniless ragged destitute"),
    "age": ("ancient aged elderly antique", "newborn infant youthful new"),
    "size": ("gigantic enormous colossal huge", "tiny minute miniature microscopic"),
    "moisture": ("soaked flooded drenched dripping", "dry parched arid dusty"),
    "anger": ("furious enraged raging livid", "calm serene peaceful gentle"),
    "joy": ("joyful delighted cheerful jubilant", "miserable sad sorrowful gloomy"),
    "danger": ("deadly perilous lethal dangerous", "safe harmless secure protected"),
    "weight": ("heavy massive leaden hefty", "weightless light feathery airy"),
    "hunger": ("starving ravenous famished hungry", "full sated stuffed fed"),
    "cleanliness": ("spotless clean polished gleaming", "filthy dirty grimy muddy"),
    "strength": ("mighty powerful strong muscular", "weak frail feeble fragile"),
    "crowding": ("crowded packed jammed teeming", "empty deserted vacant abandoned"),
    "height": ("towering tall lofty soaring", "low sunken short squat"),
    "courage": ("fearless brave daring heroic", "cowardly timid fearful frightened"),
    "honesty": ("honest truthful sincere candid", "lying deceitful false dishonest"),
    "order": ("tidy neat orderly arranged", "messy chaotic cluttered jumbled"),
    "fame": ("famous celebrated renowned popular", "unknown obscure nameless forgotten"),
    "knowledge": ("learned wise educated brilliant", "ignorant foolish clueless simple"),
    "health": ("healthy fit vigorous robust", "sick ill feverish dying"),
    "sharpness": ("sharp pointed cutting jagged", "blunt dull rounded smooth"),
}  # fmt: skip
"""Words of what is extremely high, and of what is extremely low in the subject."""
FRAMES = (
    "The first thing that the traveller noticed was how {} everything seemed.",
    "My sister wrote in her letter that the place had become {}.",
    "They called it {} , and nobody in the village disagreed.",
    "By the evening it was {} again, just as the old woman had said.",
    "It had always been {} , long before we came here.",
    "The children asked why it was so {} on that day.",
    "No report from the capital had prepared us for something this {}.",
    "He closed the door and thought about how {} it was.",
    "In every photograph of that year it looks {}.",
    "The guide repeated that it would stay {} until the spring.",
    "She had never seen anything as {} as what lay before her.",
    "After a week we had grown used to it being {}.",
    "The newspaper printed one word on its first page: {}.",
    "Everyone at the table agreed that it was far too {}.",
    "What I remember of that morning is only that it was {}.",
    "Some said that it was {} because of the river.",
)
"""Sentences that say nothing of a subject until its word is put in."""


class StoryPair(NamedTuple):
    """Two stories on one subject, sentence by sentence."""

    subject: str
    high: tuple[str, ...]
    """Sentences of the story in which the subject is extremely high."""
    low: tuple[str, ...]
    """Sentences of the story in which it is extremely low."""
    frames: tuple[int, ...] = ()
    """Frame of each sentence, the same in both stories; empty if they are not matched."""


def templates(pairs: int, seed: int, sentences: int = 8) -> list[StoryPair]:
    """Return so many pairs of stories, made of `FRAMES` in one seeded order a pair and of words of its `SUBJECTS`.

    The two stories of a pair differ in the subject's words alone; subjects come in a seeded order and come again when
    there are more pairs than subjects. ValueError: fewer than 1 pair, sentences outside 2 to the number of frames.
    """
    require(pairs >= 1, "pairs", pairs, "at least one pair")
    require(2 <= sentences <= len(FRAMES), "sentences", sentences, f"2 to {len(FRAMES)}, the frames")
    draw = generator(seed, "text/stories")
    order = torch.randperm(len(SUBJECTS), generator=draw).tolist()
    names, found = list(SUBJECTS), []
    for number in range(pairs):
        subject = names[order[number % len(names)]]
        frames = torch.randperm(len(FRAMES), generator=draw)[:sentences].tolist()
        sides = []
        for words in SUBJECTS[subject]:
            choice = words.split()
            picks = torch.randint(len(choice), (sentences,), generator=draw).tolist()
            sides.append(tuple(FRAMES[i].format(choice[j]) for i, j in zip(frames, picks, strict=True)))
        found.append(StoryPair(subject, sides[0], sides[1], tuple(frames)))
    return found


def published(source: str = PUBLISHED, rows: int | None = None) -> list[StoryPair]:
    """Return the pairs of the published dataset: a folder on disk, or the name of a dataset on the hub.

    Columns story1 (high), story2 (low) and subject, in .json (a list of records), .jsonl, .csv or .parquet files, by
    name; <tags> are taken off, and stories cut into sentences. ValueError: no such folder and no way to the hub, no
    file of these kinds, a column that is missing, a side with fewer than two sentences.
    """
    folder = Path(source) if Path(source).is_dir() else _downloaded(source)
    kinds = {".json", ".jsonl", ".csv", ".parquet"}
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in kinds]
    require(bool(files), "source", source, f"a folder with files of the kinds {sorted(kinds)}")
    records = [record for path in files for record in _records(path)][:rows]
    for record in records[:1]:
        missing = {"story1", "story2", "subject"} - record.keys()
        require(not missing, "source", sorted(record), f"also the columns {sorted(missing)}")
    found = [StoryPair(str(r["subject"]), _sentences(r["story1"]), _sentences(r["story2"])) for r in records]
    short = [pair.subject for pair in found if min(len(pair.high), len(pair.low)) < 2]
    require(bool(found) and not short, "source", short[:3] or "no pairs", "stories of at least two sentences")
    return found


def _downloaded(source: str) -> Path:
    """Return the local copy of a dataset on the hub, downloading it if there is a network."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, repo_type="dataset"))
    except Exception as error:  # offline, unknown, refused: each has a type of its own
        wanted = f"a folder with its files, or a network: `hf download {source} --repo-type dataset --local-dir FOLDER`"
        raise ValueError(f"source is {source!r}; wanted {wanted} ({type(error).__name__})") from error


def _records(path: Path) -> Sequence[dict[str, Any]]:
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    if path.suffix == ".json":
        content = json.loads(path.read_text())
        return content if isinstance(content, list) else []
    import pandas as pd

    try:
        table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    except ImportError as error:
        raise ValueError(f"source holds {path.name!r}; wanted pyarrow to read it, or .jsonl") from error
    return table.to_dict("records")  # type: ignore[return-value]


def _sentences(story: str) -> tuple[str, ...]:
    text = re.sub(r"<[^>]*>", "", story)
    return tuple(part for part in re.split(r"(?<=[.!?])\s+", text.strip()) if part)
