"""Seeded short stories about a small world, with questions whose answers can be checked.

A story is told by simulating a :class:`World` of people, things and places. Each step picks an
event that is possible in the present state (nobody gives away what they do not hold, or to someone
who is elsewhere), applies it, and tells it with one of the sentences least used so far: stories
that do not repeat themselves make a model that does not, even when it decodes greedily. Questions
are asked about the final state. The list of :class:`Event` objects is kept beside the text, so that
the answers can be derived a second time without trusting this module's bookkeeping.

The form of a story, as text::

    Once upon a time, there was a girl named Mia. ... Mia gave the red ball to Tom. ...
    Question: Who has the ball?
    Answer: Tom

One paragraph, then the questions, each on two lines, each line closed by a newline. A prompt for
an answer is everything up to and including ``Answer:``; the answer is what follows, up to the next
newline, without the space before it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

__all__ = ["Event", "Person", "Place", "Question", "Story", "World", "stories", "tell"]


@dataclass(frozen=True, kw_only=True)
class Person:
    """A character: the name and the pronouns that refer to it."""

    name: str
    he: str
    him: str
    kind: str


@dataclass(frozen=True, kw_only=True)
class Place:
    """A place, as the answer to *where* (``in the park``) and to *where to* (``to the park``)."""

    at: str
    to: str


@dataclass(frozen=True, kw_only=True)
class Event:
    """One change of the world.

    ``kind`` is one of ``come`` (who appears at ``place``), ``lie`` (``thing`` of ``colour`` lies at
    ``place``), ``own`` (``who`` starts with ``thing``), ``go``, ``take`` (from the ground),
    ``drop``, ``give`` (to ``whom``), ``grab`` (from ``whom``), ``feel`` (``feeling``).
    """

    kind: str
    who: str = ""
    thing: str = ""
    whom: str = ""
    place: str = ""
    colour: str = ""
    feeling: str = ""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question about the end of a story, its kind, its subject and its only right answer."""

    kind: str
    subject: str
    text: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class Story:
    """A story: its paragraph, what happened in it, and the questions asked after it."""

    paragraph: str
    events: tuple[Event, ...]
    questions: tuple[Question, ...]

    @property
    def text(self) -> str:
        """The whole story with all questions answered."""
        return self.prompt(len(self.questions) - 1) + f" {self.questions[-1].answer}\n"

    def prompt(self, index: int) -> str:
        """The story up to the ``Answer:`` of question ``index``, earlier questions answered."""
        lines = [self.paragraph]
        for question in self.questions[:index]:
            lines += [f"Question: {question.text}", f"Answer: {question.answer}"]
        lines += [f"Question: {self.questions[index].text}", "Answer:"]
        return "\n".join(lines)


def _people(names: str, he: str, him: str, kind: str) -> list[Person]:
    return [Person(name=name, he=he, him=him, kind=kind) for name in names.split()]


_PEOPLE = _people("Mia Anna Lily Zoe Emma Ruth Clara Nora", "she", "her", "girl") + _people(
    "Tom Ben Max Leo Sam Jack Oscar Finn", "he", "him", "boy"
)
_PLACES = [
    Place(at=f"{at} the {name}", to=f"to the {name}")
    for at, names in {
        "in": "park garden kitchen forest barn library",
        "at": "market school castle",
        "by": "river lake well",
        "on": "beach hill bridge",
    }.items()
    for name in names.split()
]
_THINGS = [
    *("ball", "kite", "book", "apple", "hat", "drum", "lamp", "key"),
    *("cake", "boat", "doll", "bell", "coin", "rope", "cup", "shell"),
]
_COLOURS = ["red", "blue", "green", "yellow", "white", "black", "golden", "brown"]

_FEELINGS = {
    "happy": ["because the sun was shining", "because everyone was kind", "and began to sing"],
    "sad": ["because the summer was over", "because nobody wanted to play", "and sat down"],
    "tired": ["after the long day", "because it was very late", "and wanted to sleep"],
    "hungry": ["because there was no breakfast", "and thought of warm bread"],
    "proud": ["because it had been a hard day", "and stood very tall"],
    "afraid": ["because there was a strange noise", "because it was getting dark"],
    "angry": ["because nobody would listen", "and did not say a word"],
    "lonely": ["because the birds had flown away", "and wished for a friend"],
}
_OPENINGS = [
    "Once upon a time, there was a {kind} named {s}.",
    "Once upon a time, there lived a little {kind} called {s}.",
    "Once upon a time, in a small village, there was a {kind} named {s}.",
    "One day, a {kind} named {s} woke up early.",
    "Long ago, there was a clever {kind} whose name was {s}.",
    "This is the story of a brave {kind} named {s}.",
    "There once was a {kind} named {s} who loved stories.",
]
_COME = ["{S} was {at}.", "That morning, {s} was {at}.", "{S} was playing {at}."]
_COME_ALSO = [
    "{S} was {at}.",
    "A {kind} named {s} was {at}.",
    "{S}, a friend of {q}, was {at}.",
    "There was also a {kind} called {s}, who was {at}.",
    "Not far away, {s} was sitting {at}.",
]
_LIE = [
    "There was {a} {at}.",
    "Somebody had left {a} {at}.",
    "{A} lay {at}.",
    "{A} was hidden {at}.",
]
_OWN = ["{S} had {a}.", "{S} carried {a}.", "{S} always kept {a} close.", "{S} was proud of {a}."]
_GO = [
    "{S} went {to}.",
    "{S} walked {to}.",
    "{S} ran {to} as fast as {he} could.",
    "Then {s} took the long way {to}.",
    "After a while, {s} hurried {to}.",
    "{S} was bored, so {he} went {to}.",
    '"I will go {to}," said {n}, and off {he} went.',
]
_GO_TO = [
    "{S} went {to} to see {q}.",
    "{S} missed {q}, so {he} walked {to}.",
    "{S} heard {q} laughing {at} and ran there.",
    "{Q} called, and {n} came {to}.",
]
_GO_BOTH = [
    "{N} and {q} went {to} together.",
    "{N} took {q} by the hand, and they walked {to}.",
    '"Come with me {to}," said {n} to {q}, and they both went.',
]
_TAKE = [
    "{S} picked up {o}.",
    "{S} saw {o} and took it.",
    "{S} bent down and took {o}.",
    '"Look what I found!" said {n}, and {he} picked up {o}.',
    "{S} could not leave {o} behind, so {he} took it.",
]
_DROP = [
    "{S} put {o} down {at}.",
    "{S} left {o} {at}.",
    "{S} did not want {o} any more and left it {at}.",
    "{O} was too heavy, so {s} put it down.",
    "Oh no! {S} dropped {o} {at}.",
]
_GIVE = [
    "{S} gave {o} to {q}.",
    "{S} gave {q} {o}.",
    "{S} handed {o} to {q} with a smile.",
    '"This is for you," said {s}, and {he} gave {o} to {q}.',
    "{Q} asked for {o}, and {n} gave it to {qhim}.",
    '"May I have {o}?" asked {q}. {N} gave it to {qhim}.',
]
_GRAB = [
    "{S} took {o} from {q}.",
    "{S} grabbed {o} from {q} and laughed.",
    '"Give it back!" said {q}, but {n} kept {o}.',
]
_FEEL = ["{S} was {f} {why}.", "{S} felt {f} {why}.", "Now {s} was very {f}.", "{S} felt {f}."]
_TALK = [
    "A bird sang in the trees.",
    "The wind was soft and warm.",
    "It began to rain a little.",
    "The sun came out from behind a cloud.",
    "Somewhere a dog was barking.",
    "Everything was quiet for a moment.",
    '"What a lovely day," said {s}.',
    '"I wonder what comes next," said {s}.',
    "{S} told a funny joke, and everyone laughed.",
    "{S} thought about it for a long time.",
    "{S} smiled.",
]
_ENDINGS = [
    "The end.",
    "And that was the end of the day.",
    "Soon the stars came out.",
    "It was a good day after all.",
    "And they were friends ever after.",
    "Nobody ever forgot that day.",
]


@dataclass
class World:
    """The state the events change: who is where, who holds what, what lies where."""

    at: dict[str, Place] = field(default_factory=dict)
    holder: dict[str, str] = field(default_factory=dict)
    lies: dict[str, Place] = field(default_factory=dict)
    colour: dict[str, str] = field(default_factory=dict)
    feeling: dict[str, str] = field(default_factory=dict)

    def where(self, thing: str) -> Place:
        """The place of a thing: where it lies, or where its holder is."""
        return self.at[self.holder[thing]] if thing in self.holder else self.lies[thing]

    def beside(self, name: str) -> list[str]:
        """The other people at the same place."""
        return [other for other in self.at if other != name and self.at[other] == self.at[name]]


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]


class _Teller:
    """Tells one story: chooses events, applies them to the world, and writes the sentences."""

    def __init__(self, rng: random.Random, *, length: int) -> None:
        self._rng = rng
        self._world = World()
        self._sentences: list[str] = []
        self._told: Counter[str] = Counter()  # how often each template was used
        self._events: list[Event] = []
        self._last = ""  # the subject of the sentence before
        self._clear = False  # whether a pronoun could only mean that subject
        self._cast = {p.name: p for p in rng.sample(_PEOPLE, rng.choice([2, 2, 3]))}
        self._places = rng.sample(_PLACES, 3)
        self._things = rng.sample(_THINGS, rng.choice([2, 2, 3]))
        self._begin()
        for _ in range(length):
            self._step()
        self._sentences.append(rng.choice(_ENDINGS))

    def story(self) -> Story:
        """The finished story with up to eight questions about it."""
        asked = self._questions()
        questions = self._rng.sample(asked, min(len(asked), self._rng.choice([4, 5, 6, 7, 8])))
        return Story(
            paragraph=" ".join(self._sentences),
            events=tuple(self._events),
            questions=tuple(questions),
        )

    def _say(
        self,
        templates: list[str],
        who: str,
        *,
        whom: str = "",
        thing: str = "",
        place: Place | None = None,
        feeling: str = "",
        named: bool = False,
    ) -> None:
        rng, person = self._rng, self._cast[who]
        subject = who
        if who == self._last and self._clear and not named and rng.random() < 0.6:
            subject = person.he
        colour = self._world.colour.get(thing, "")
        article = "an" if (colour or " ")[0] in "aeiou" else "a"
        the = f"the {colour} {thing}" if rng.random() < 0.2 else f"the {thing}"
        words = {
            "s": subject,
            "n": who,
            "he": person.he,
            "kind": person.kind,
            "q": whom,
            "qhim": self._cast[whom].him if whom else "",
            "o": the,
            "a": f"{article} {colour} {thing}",
            "at": place.at if place else "",
            "to": place.to if place else "",
            "f": feeling,
            "why": rng.choice(_FEELINGS[feeling]) if feeling else "",
        }
        words |= {key.upper(): _upper(words[key]) for key in "snqoa" if words[key]}
        fewest = min(self._told[t] for t in templates)
        template = rng.choice([t for t in templates if self._told[t] == fewest])
        self._told[template] += 1
        self._sentences.append(template.format(**words))
        self._last = who
        self._clear = not whom or self._cast[whom].he != person.he

    def _begin(self) -> None:
        rng, world = self._rng, self._world
        for index, person in enumerate(self._cast.values()):
            place = rng.choice(self._places)
            first = next(iter(self._cast))
            if index == 0:
                self._say(_OPENINGS, person.name, named=True)
            self._say(_COME_ALSO if index else _COME, person.name, whom=first if index else "",
                      place=place, named=index > 0)  # fmt: skip
            world.at[person.name] = place
            self._events.append(Event(kind="come", who=person.name, place=place.at))
        for thing in self._things:
            world.colour[thing] = colour = rng.choice(_COLOURS)
            if rng.random() < 0.55:
                who = rng.choice(list(self._cast))
                world.holder[thing] = who
                self._say(_OWN, who, thing=thing)
                self._events.append(Event(kind="own", who=who, thing=thing, colour=colour))
            else:
                place = rng.choice(self._places)
                world.lies[thing] = place
                self._say(_LIE, next(iter(self._cast)), thing=thing, place=place)
                self._last = ""
                self._events.append(Event(kind="lie", thing=thing, place=place.at, colour=colour))

    def _step(self) -> None:
        """One event among those the world allows; the same person often goes on acting."""
        rng, world = self._rng, self._world
        who = self._last if self._last and rng.random() < 0.4 else rng.choice(list(self._cast))
        here, beside = world.at[who], world.beside(who)
        mine = [t for t, holder in world.holder.items() if holder == who]
        lying = [t for t, place in world.lies.items() if place == here]
        theirs = [t for t, holder in world.holder.items() if holder in beside]
        before = self._events[-1]
        theirs = [t for t in theirs if t != before.thing]
        walked = before.kind == "go" and before.who == who
        choices = {"go": 0.5 if walked else 3.0, "feel": 1.0, "talk": 1.2}
        if lying:
            choices["take"] = 4.0
        if any(t != before.thing for t in mine):
            choices["drop"] = 1.0
        if mine and beside:
            choices["give"] = 5.0
        if theirs:
            choices["grab"] = 1.2
        kind = rng.choices(list(choices), list(choices.values()))[0]
        if kind == "go":
            self._go(who, here, beside)
        elif kind == "feel":
            feeling = rng.choice([f for f in _FEELINGS if f != world.feeling.get(who)])
            world.feeling[who] = feeling
            self._say(_FEEL, who, feeling=feeling)
            self._events.append(Event(kind="feel", who=who, feeling=feeling))
        elif kind == "talk":
            self._say(_TALK, who, named=True)
            self._last = ""
        elif kind == "take":
            thing = rng.choice(lying)
            self._say(_TAKE, who, thing=thing)
            del world.lies[thing]
            world.holder[thing] = who
            self._events.append(Event(kind="take", who=who, thing=thing))
        elif kind == "drop":
            thing = rng.choice([t for t in mine if t != before.thing])
            self._say(_DROP, who, thing=thing, place=here)
            del world.holder[thing]
            world.lies[thing] = here
            self._events.append(Event(kind="drop", who=who, thing=thing))
        elif kind == "give":
            thing, whom = rng.choice(mine), rng.choice(beside)
            self._say(_GIVE, who, whom=whom, thing=thing)
            world.holder[thing] = whom
            self._events.append(Event(kind="give", who=who, whom=whom, thing=thing))
        else:
            thing = rng.choice(theirs)
            whom = world.holder[thing]
            self._say(_GRAB, who, whom=whom, thing=thing)
            world.holder[thing] = who
            self._events.append(Event(kind="grab", who=who, whom=whom, thing=thing))

    def _go(self, who: str, here: Place, beside: list[str]) -> None:
        rng, world = self._rng, self._world
        far = [p for p in self._places if p != here]
        others = [name for name in self._cast if name != who and world.at[name] != here]
        if others and rng.random() < 0.5:
            whom = rng.choice(others)
            place = world.at[whom]
            self._say(_GO_TO, who, whom=whom, place=place)
        elif beside and rng.random() < 0.5:
            whom, place = rng.choice(beside), rng.choice(far)
            self._say(_GO_BOTH, who, whom=whom, place=place)
            world.at[whom] = place
            self._events.append(Event(kind="go", who=whom, place=place.at))
            self._last = ""
        else:
            place = rng.choice(far)
            self._say(_GO, who, place=place)
        world.at[who] = place
        self._events.append(Event(kind="go", who=who, place=place.at))

    def _questions(self) -> list[Question]:
        """Every question that has exactly one right answer at the end of the story."""
        world, asked = self._world, []

        def ask(kind: str, subject: str, text: str, answer: str) -> None:
            asked.append(Question(kind=kind, subject=subject, text=text, answer=answer))

        for name in self._cast:
            ask("where_person", name, f"Where is {name}?", world.at[name].at)
            if name in world.feeling:
                ask("feels", name, f"How does {name} feel?", world.feeling[name])
        for thing in self._things:
            ask("where_thing", thing, f"Where is the {thing}?", world.where(thing).at)
            ask("colour", thing, f"What colour is the {thing}?", world.colour[thing])
            if thing in world.holder:
                ask("who_has", thing, f"Who has the {thing}?", world.holder[thing])
            gifts = {(e.whom, e.who) for e in self._events if e.kind == "give" and e.thing == thing}
            for taker, giver in sorted(gifts):
                if sum(whom == taker for whom, _ in gifts) > 1:
                    continue  # two people gave it to the same one: two right answers
                ask("who_gave", thing, f"Who gave the {thing} to {taker}?", giver)
        return asked


def tell(seed: int | str, *, easy: bool = False) -> Story:
    """The story of a seed: the same seed tells the same story on every machine.

    In an ``easy`` story next to nothing happens, so that its questions ask for what was just said.
    """
    rng = random.Random(f"story {seed}")
    if easy:
        return _Teller(rng, length=rng.choice([0, 1, 2, 3])).story()
    return _Teller(rng, length=rng.choice([2, 3, 4, 5, 6, 7, 8, 10, 12])).story()


def stories(seed: int | str, count: int, *, easy: bool = False) -> Iterator[Story]:
    """``count`` stories; different seeds give different, independent lists."""
    for index in range(count):
        yield tell(f"{seed}/{index}", easy=easy)
