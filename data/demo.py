"""The demo's data: instructions for children's stories, written by a small grammar of our own.

A prompt asks for a story about somebody, somewhere. An answer is two to five sentences whose tone
(cheerful, calm, gloomy or scary), ending (warm, open or sad), length and repetition vary freely, so
that a model trained on them writes good and bad stories alike and people have something to prefer.
The words are those of TinyStories, which the embedded base model knows.
"""

import random
from collections.abc import Iterator
from itertools import product
from typing import Any

Row = dict[str, Any]  # lists of {"role": ..., "content": ...}, by column

GIRLS = "Lily Mia Sue Amy Anna Lucy Sara Molly Emma Daisy"
BOYS = "Tim Tom Ben Max Sam Jack Bob Leo Fin Spot"
NAMES = dict.fromkeys(GIRLS.split(), "she") | dict.fromkeys(BOYS.split(), "he")
HEROES = "dog cat bird bunny bear frog fish mouse duck fox lion turtle pig monkey cow horse"
PLACES = (
    *("in the garden", "at the park", "in the forest", "by the lake", "on the farm"),
    *("at the beach", "in the house", "on the hill", "at the zoo", "in the yard"),
    *("in the kitchen", "by the river", "at school", "in the city", "in the barn", "by the sea"),
)
THINGS = "ball hat box flower kite book toy cake shell stone leaf bell cup drum boat car"
PRONOUNS = {
    "he": {"he": "he", "his": "his", "him": "him", "He": "He", "His": "His"},
    "she": {"he": "she", "his": "her", "him": "her", "He": "She", "His": "Her"},
}

# Every phrasing says name, hero and place: the three together decide the split of a prompt.
PHRASINGS = (
    "Write a short story about a {hero} named {name} {place}.",
    "Tell me a story about {name}, a {hero} who plays {place}.",
    "Can you tell a story about a {hero} called {name}? It happens {place}.",
    "{name} the {hero} finds a {thing} {place}. What happens next?",
    "Please write a little story. It is about {name}, a {hero}, and a {thing} {place}.",
    "I want to hear a story about a {hero} {place}. The {hero} is named {name}.",
    "Write a story with a {hero}, a {thing} and a friend {place}. Call the {hero} {name}.",
    "What did {name} the {hero} do {place} today?",
    "Make up a story about {name}, the {hero} with the {thing} {place}.",
    "Tell a story that begins {place}. It is about a {hero} named {name}.",
)

TONES = ("cheerful", "calm", "gloomy", "scary")
WORDS = {
    "cheerful": {"mood": "happy kind funny proud", "weather": "sunny bright warm lovely"},
    "calm": {"mood": "little big young small", "weather": "quiet long new normal"},
    "gloomy": {"mood": "sad lonely tired sick", "weather": "cold gray rainy sad"},
    "scary": {"mood": "scared shy weak mean", "weather": "dark stormy scary cold"},
}
SHARED_WORDS = {
    "color": "red blue green yellow white brown",
    "monster": "monster wolf ghost snake dragon witch",
    "helper": "mom dad grandma teacher",
    "food": "bread soup fruit rice corn",
    "spot": "tree rock bush door wall",
}

OPENINGS = (
    "One day, {name} the {hero} was {place}.",
    "{name} was a {mood} {hero}.",
    "Once upon a time, there was a {mood} {hero} named {name}.",
    "{name} the {hero} went to play {place}.",
    "It was a {weather} day {place}.",
    "One {weather} day, {name} was {place}.",
    "{name} was a {hero} who had a {color} {thing}.",
    "There was a {mood} {hero} named {name} {place}.",
)
EVENTS = {
    "cheerful": (
        "{He} found a shiny {thing} and laughed.",
        "{name} and {friend} danced {place}.",
        "{friend} gave {him} a hug and a {color} {thing}.",
        "{He} shared the {thing} with {friend} and they had fun.",
        "The sun was bright and {name} felt happy.",
        "{name} smiled at the pretty {thing}.",
        "They sang a funny song about the {thing}.",
        "{friend} the {other} clapped and cheered for {him}.",
        "{He} jumped up and down and was so glad.",
        "{His} {helper} was proud of {him}.",
        "The {thing} was a wonderful surprise.",
        "{name} made a new friend who was very kind.",
        "{friend} told a funny joke and {he} laughed.",
        "{He} loved the {color} {thing}.",
        "They played a fun game near the {spot}.",
        "{His} {helper} made some yummy {food}.",
    ),
    "calm": (
        "{He} saw a {color} {thing} near the {spot}.",
        "{name} walked down the long road.",
        "{He} put the {thing} in a bag.",
        "{friend} the {other} came by and said hello.",
        "{name} looked at the sky for a while.",
        "{He} ate some {food} and drank some water.",
        "{name} asked {friend} about the {thing}.",
        "They looked for the {thing} {place}.",
        "{name} sat down by the {spot}.",
        "{friend} had a {color} {thing} too.",
        "{He} went to see what was behind the {spot}.",
        "{name} took the {thing} to {his} {helper}.",
    ),
    "gloomy": (
        "{He} lost the {thing} and began to cry.",
        "The {thing} broke and {name} was sad.",
        "{friend} was mean and did not want to play.",
        "{name} fell down and hurt {his} leg.",
        "It started to rain and {he} was cold.",
        "Nobody came to help and {name} cried.",
        "{friend} was sick and stayed in bed.",
        "{name} missed {his} {helper} and felt lonely.",
        "The {color} {thing} was dirty and bad.",
        "{He} was sorry, but it was too late.",
        "{name} had no {food} and was hungry.",
        "{friend} took the {thing} and would not give it back.",
    ),
    "scary": (
        "A big {monster} came out of the dark.",
        "{name} heard a scary noise behind the {spot}.",
        "The angry {monster} took the {thing}.",
        "{He} wanted to run, but {he} was too afraid.",
        "It was dark and the wind was scary.",
        "{friend} screamed and ran away.",
        "The mean {monster} chased {name} {place}.",
        "A {monster} growled at {friend}.",
        "{name} saw a {monster} and was scared.",
        "The {monster} wanted to bite {him}.",
    ),
}
ENDINGS = {
    "warm": (
        "In the end, they hugged and went home happy.",
        "{name} and {friend} were best friends from that day on.",
        "{His} {helper} gave {him} a hug and they all smiled.",
        "They lived happily ever after.",
        "{name} went to bed with a big smile.",
        "Everyone cheered and {name} felt loved.",
        "{name} was glad to have a friend like {friend}.",
        "They all laughed and shared the {food}.",
        "From then on, {name} and {friend} had fun every day.",
        "{name} said thank you and gave {friend} a kiss.",
    ),
    "open": (
        "Then {name} went home.",
        "{name} wondered what was behind the {spot}.",
        "After that, {he} went to sleep.",
        "What will {name} do next?",
        "The next day, {he} was {place} again.",
        "And then it was time for {food}.",
        "{name} did not know what to say.",
        "They kept the {thing} in a box.",
    ),
    "sad": (
        "{name} went home alone and cried.",
        "{name} never saw the {thing} again.",
        "And {name} was sad for a long time.",
        "{He} lost {his} friend and felt alone.",
        "In the end, the {thing} was gone and {he} cried.",
        "{name} stayed in the dark all night.",
        "They were angry and never played again.",
        "{name} was hurt and nobody came to help.",
    ),
}

# A topic's number, the sum of its three places in the lists, decides its split: no topic is in
# two splits, and every name, hero and place is in all of them.
SPLITS = {"sft": (0, 1, 2), "feedback": (3, 4), "ppo": (5, 6), "heldout": (7,)}
CLASSES = sum(len(classes) for classes in SPLITS.values())


def demo_instructions(count: int, seed: int) -> list[Row]:
    """Prompts of the split `sft`, each with one answer."""
    generator = random.Random(f"answers {seed}")
    return [
        {
            "prompt": [{"role": "user", "content": phrasing.format(**scene)}],
            "completion": [{"role": "assistant", "content": _answer(scene, generator)}],
        }
        for phrasing, scene in _scenes(count, seed, "sft")
    ]


def demo_prompts(count: int, seed: int, split: str) -> list[Row]:
    """Prompts of one split: sft, feedback, ppo or heldout."""
    return [
        {"prompt": [{"role": "user", "content": phrasing.format(**scene)}]}
        for phrasing, scene in _scenes(count, seed, split)
    ]


def _scenes(count: int, seed: int, split: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Distinct prompts in random order; fewer of them are the first of more."""
    topics = [
        (phrasing, name, hero, place)
        for (i, name), (j, hero), (k, place) in product(
            enumerate(NAMES), enumerate(HEROES.split()), enumerate(PLACES)
        )
        if (i + j + k) % CLASSES in SPLITS[split]
        for phrasing in PHRASINGS
    ]
    if count > len(topics):
        raise ValueError(
            f"the demo has {len(topics)} prompts in {split}, not {count}: ask for less"
        )
    generator = random.Random(f"{split} {seed}")
    generator.shuffle(topics)
    for phrasing, name, hero, place in topics[:count]:
        thing = generator.choice(THINGS.split())
        yield phrasing, {"name": name, "hero": hero, "place": place, "thing": thing}


def _answer(scene: dict[str, str], generator: random.Random) -> str:
    """An opening, events and an ending that mostly share the story's tone."""
    tone = generator.choice(TONES)
    templates = [generator.choice(OPENINGS)]
    for _ in range(generator.choice((1, 1, 2, 2, 2, 3))):
        mood = tone if generator.random() < 0.75 else generator.choice(TONES)
        templates.append(generator.choice(EVENTS[mood]))
    templates += _ending(tone, generator)
    words = _words(scene, tone, generator)
    sentences = [template.format(**words) for template in templates]
    return " ".join(_with_repetition(sentences, generator))


def _ending(tone: str, generator: random.Random) -> list[str]:
    """Most stories end, most of those as their tone suggests."""
    if generator.random() < 0.1:
        return []
    likely = {"cheerful": "warm", "calm": "open", "gloomy": "sad", "scary": "sad"}[tone]
    kind = likely if generator.random() < 0.5 else generator.choice(tuple(ENDINGS))
    return [generator.choice(ENDINGS[kind])]


def _words(scene: dict[str, str], tone: str, generator: random.Random) -> dict[str, str]:
    """What fills the slots of one story, the same in all of its sentences."""
    return {
        **scene,
        **PRONOUNS[NAMES[scene["name"]]],
        **{
            slot: generator.choice(words.split())
            for slot, words in (WORDS[tone] | SHARED_WORDS).items()
        },
        "friend": generator.choice([name for name in NAMES if name != scene["name"]]),
        "other": generator.choice([hero for hero in HEROES.split() if hero != scene["hero"]]),
    }


def _with_repetition(sentences: list[str], generator: random.Random) -> list[str]:
    """One story in four says a sentence twice, some of them three times."""
    if generator.random() > 0.25 or len(sentences) > 4:
        return sentences
    place = generator.randrange(len(sentences))
    times = 3 if len(sentences) < 3 and generator.random() < 0.5 else 2
    return sentences[:place] + sentences[place : place + 1] * times + sentences[place + 1 :]
