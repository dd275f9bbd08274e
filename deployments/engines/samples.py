"""Texts as callers send them, with labels: what the service carries to measure itself with, offline.

Two sets that share no text: int8 scales are fixed on `CALIBRATION`, and engines are judged on `EVALUATION`.
Written for this project; of many kinds, lengths and languages, since a scale that was fixed on one kind of text
cuts off what is larger in another.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

TEMPLATES = ("This example is {}.", "This text is about {}.", "{}")

_SUPPORT = ("billing", "delivery", "a broken product", "account access", "cancellation", "praise")
_NEWS = ("politics", "sports", "science", "business", "culture", "weather")
_REVIEW = ("positive", "negative", "neutral", "ironic")
_ASSISTANT = ("set an alarm", "play music", "transfer money", "find a restaurant", "small talk", "translate")
_TRIAGE = ("urgent", "a question", "a complaint", "spam", "contains personal data")


@dataclass(frozen=True, slots=True)
class Sample:
    """A text, and what several labels claim of it."""

    text: str
    labels: tuple[str, ...]
    template: str

    @property
    def hypotheses(self) -> list[str]:
        return [self.template.replace("{}", label) for label in self.labels]


def digest() -> str:
    """Of the calibration set, short: graphs quantised on another one are others."""
    return hashlib.sha256(repr(CALIBRATION).encode()).hexdigest()[:8]


def _samples(labels: tuple[str, ...], *texts: str) -> tuple[Sample, ...]:
    return tuple(Sample(text, labels, TEMPLATES[i % len(TEMPLATES)]) for i, text in enumerate(texts))


CALIBRATION: tuple[Sample, ...] = (
    *_samples(
        _SUPPORT,
        "My card was charged twice for the same order, please refund the second payment.",
        "Where is my parcel? The tracking page has said 'in transit' for nine days now.",
        "I can't log in any more since I changed my phone, and the code never arrives.",
        "The left earbud stopped working after two weeks. It charges, the light is on, but there is no sound at all.",
        "Please cancel my subscription at the end of the month and confirm it by e-mail.",
        "Just wanted to say thank you to Maria from your team, she solved in five minutes what I had tried all day!",
        "ich habe vor zwei Wochen bestellt und noch immer keine Rechnung bekommen, könnt ihr mir die bitte schicken?",
        "Le colis est arrivé, mais l'écran est fissuré et il manque le chargeur. Que dois-je faire ?",
        "no puedo entrar en mi cuenta, dice que la contraseña es incorrecta pero la acabo de cambiar",
        "order #48213-B: invoice says 3 x 19.99 = 79.96 ??? pls check, VAT id DE811907980",
        "快递员说已经送到了 但是我没有收到包裹 请帮我查一下。",
    ),
    *_samples(
        _NEWS,
        "Parliament passed the budget late on Thursday after eleven hours of debate, by a majority of only four votes.",
        "The striker scored twice in the last six minutes to send the home side into the semi-final.",
        "Researchers report a catalyst that splits water at room temperature using iron instead of platinum; the cell "
        "ran for four thousand hours without losing efficiency, but the team warns that scaling it up will take years.",
        "Shares of the carmaker fell 7.3% after it cut its forecast for the third time this year.",
        "A storm with gusts of up to 140 km/h is expected to reach the coast on Sunday night.",
        "The museum is returning four bronze heads that were taken from the palace in 1897.",
        "Die Bundesbank rechnet im kommenden Jahr mit einem Wachstum von 0,8 Prozent.",
        "Новый театр откроется в городе в субботу, первый спектакль поставит молодой режиссёр из Томска.",
        "東京の桜は平年より五日早く満開になりました。",
        "Election officials said turnout had reached 61 percent by 4 p.m., well above the figure four years earlier, "
        "with long queues reported at polling stations in the capital and in several towns of the north, where snow "
        "had closed roads in the morning. Results are not expected before midnight.",
    ),
    *_samples(
        _REVIEW,
        "Great little hotel, friendly staff, and the breakfast alone is worth the trip.",
        "Two hours of my life I will never get back.",
        "It does what it says. Nothing more, nothing less.",
        "Oh wonderful, another update that moves every button. Exactly what I needed on a Monday.",
        "The plot is thin, the dialogue thinner, yet the pictures are so beautiful that I went to see it again.",
        "not bad, not good, meh",
        "DO NOT BUY!!! broke on the first day, seller does not answer",
        "Das Essen war kalt, der Kellner unfreundlich, und am Ende stimmte nicht einmal die Rechnung.",
        "Sehr schönes Buch, ich habe es an einem Abend gelesen und gleich meiner Schwester geschenkt.",
        "I have owned four of these machines over the last twelve years. This one is quieter than the old model, the "
        "tank is easier to clean, and it heats up in under a minute; on the other hand the lid feels cheap, the "
        "manual is a joke, and the app wants my location to make coffee. Would I buy it again? Probably, in a sale.",
    ),
    *_samples(
        _ASSISTANT,
        "wake me up at half past six tomorrow",
        "play something quiet, maybe piano",
        "send fifty euros to anna for the concert tickets",
        "is there a vegetarian place near the station that is still open",
        "how are you today",
        "what is 'good morning' in portuguese",
        "stop",
        "remind me to call mum when i get home and also put milk on the shopping list",
        "👍",
        "mets un réveil pour sept heures moins le quart s'il te plaît",
    ),
    *_samples(
        _TRIAGE,
        "Production is down, all requests fail with 503 since 14:02 UTC, customers are calling.",
        "Hi, quick question: does the free plan include the API, and is there a limit?",
        "Congratulations!!! You have WON a voucher worth $1,000. Click here to claim >>> http://example.com/win",
        "My name is Jonas Lindqvist, born 4 May 1981, and my number is +46 8 123 456. Please call me back.",
        "This is the third time that I write to you about the same problem, and nobody has answered me yet.",
        "def retry(call, times=3):\n    for _ in range(times):\n        try:\n            return call()\n"
        "        except TimeoutError:\n            continue",
        '{"level": "error", "service": "checkout", "msg": "connection reset by peer", "attempt": 4}',
        "The patient reports intermittent chest pain on exertion for the past three weeks, relieved by rest, without "
        "radiation to the arm. No fever, no cough. Blood pressure 148/92, pulse 76, regular. ECG without signs of "
        "acute ischaemia. Family history of coronary disease on the father's side. Plan: exercise test, lipid "
        "profile, aspirin 100 mg daily until the result is known, return at once if the pain occurs at rest.",
        "The tenant shall give notice in writing no later than three months before the end of the term; otherwise "
        "this agreement is extended by one year at a time. The deposit is returned within thirty days, less the cost "
        "of repairs that go beyond ordinary wear.",
    ),
)

EVALUATION: tuple[Sample, ...] = (
    *_samples(
        _SUPPORT,
        "I was billed in dollars although my account is in euros, and the fee is not on your price list.",
        "The courier left the box in the rain and everything inside is wet.",
        "The hinge snapped when I opened the laptop this morning, it is four months old.",
        "You locked my account for 'unusual activity' while I was travelling. How do I get back in?",
        "I don't need the premium plan any more, please end it.",
        "Die Hotline war sehr freundlich, danke für die schnelle Hilfe!",
        "ordered the blue one, got a green one",
    ),
    *_samples(
        _NEWS,
        "The chancellor met the opposition leader on Tuesday to discuss the reform of the pension system.",
        "She won the 800 metres in a personal best of 1:57.4, a week after recovering from the flu.",
        "Astronomers have found water vapour in the atmosphere of a planet that circles a star 120 light years away.",
        "The two supermarket chains plan to merge by the end of the year, subject to approval by the regulator.",
        "After three dry months the first rain fell on the fields of the south.",
        "The novel, her first in eleven years, tells the story of a lighthouse keeper and his three daughters.",
    ),
    *_samples(
        _REVIEW,
        "The battery lasts two days and the camera is the best I have had in a phone.",
        "We waited an hour for a table that we had booked, and then the kitchen was closed.",
        "A solid film that will not surprise anyone who has read the book.",
        "Sure, because what a toothbrush really needs is a password.",
        "Ein tolles Konzert, nur der Ton war in den hinteren Reihen etwas dumpf.",
    ),
    *_samples(
        _ASSISTANT,
        "set a timer for twelve minutes",
        "put on the new album by that band from iceland",
        "pay the electricity bill from my savings account",
        "where can i get good ramen around here",
        "tell me a joke",
        "how do you say thank you in japanese",
    ),
    *_samples(
        _TRIAGE,
        "URGENT: the freezer in lab 3 is at -12 and rising, samples will be lost within the hour!",
        "Could you tell me which browsers you support?",
        "Cheap watches, best price, limited offer, reply YES now.",
        "Her passport number is X4411902 and she lives at 12 Harbour Street, flat 5.",
        "I am very disappointed. I was promised a call on Monday, then on Wednesday, then on Friday. It is now the "
        "following Tuesday, nobody has called, the technician did not come either, and when I tried to reach you by "
        "phone I was told after forty minutes in the queue that the office had just closed. I expect an apology, a "
        "new appointment this week, and the fee for last month back.",
    ),
)
