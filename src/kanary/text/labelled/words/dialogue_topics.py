"""What dialogues are about: things that two people have both met with, and what they may think of them.

In opinions, square brackets hold the words that value something; nothing else in a topic praises or blames.
"""

from typing import NamedTuple

from kanary.text.labelled.shared import Line, line


class Turn(NamedTuple):
    """What somebody says at a stretch, its last sign apart."""

    said: Line
    end: str
    """``.``, ``?`` or ``!``."""


class Topic(NamedTuple):
    """Something that two people have both met with."""

    where: str
    openings: tuple[Turn, ...]
    questions: tuple[Turn, ...]
    positive: tuple[Turn, ...]
    negative: tuple[Turn, ...]
    neutral: tuple[Turn, ...]
    facts: tuple[tuple[Turn, Turn], ...]
    """Questions and answers that value nothing."""


def turn(text: str, **aliases: str) -> Turn:
    text = text.strip()
    if text.endswith(".]"):
        raise ValueError(f"the stop belongs outside the mark: {text!r}")
    return Turn(line(text[:-1], **aliases), text[-1])


def turns(text: str, mark: str = "") -> tuple[Turn, ...]:
    """One a row; ``mark`` names the concept of what is in square brackets."""
    return tuple(turn(row.replace("[", f"[{mark} ") if mark else row) for row in text.splitlines() if row.strip())


def topic(where: str, text: str) -> Topic:
    """Rows begin with ``>`` (what is spoken of), ``?`` (question), ``+``, ``-``, ``=`` (opinions, none) or ``:`` (a fact)."""
    rows = [row.strip() for row in text.splitlines() if row.strip()]

    def those(sign: str, mark: str = "") -> tuple[Turn, ...]:
        return turns("\n".join(row[2:] for row in rows if row[0] == sign), mark)

    facts = [row[2:].split(" | ") for row in rows if row[0] == ":"]
    pairs = tuple((turn(question), turn(answer)) for question, answer in facts)
    return Topic(where, those(">"), those("?"), those("+", "pos"), those("-", "neg"), those("="), pairs)


TOPICS = (
    topic(
        "outside the cinema",
        """
        > Last night I saw the new film at last.
        > So that was the film with the long title.
        ? How was the film?
        ? You have seen the new film as well, haven't you?
        + I thought it was [a little masterpiece].
        + I [loved every minute of it], and [the music was gorgeous].
        + I laughed until I cried; [I have not enjoyed myself so much in years].
        - I [was bored to tears] after ten minutes.
        - I [found it dreadful], to be frank, and [the ending made no sense at all].
        - I [could not stand the leading man].
        = I came in late and saw only the second half.
        = I went with my brother, and we sat in the third row.
        : How long did it last? | A little over two hours, with a break in the middle.
        : Who wrote it? | A woman from Lisbon, as far as I know.
        : Was it in colour? | No, in black and white, with titles to read.
        """,
    ),
    topic(
        "in front of the new restaurant",
        """
        > There is a new place on the corner.
        > They have a new cook here since May.
        ? Have you eaten at the new place on the corner?
        ? What do you think of the cook they have now?
        + I had the fish, and it was [simply delicious].
        + I [have never been treated so kindly] by a waiter.
        + I must say that [the soup there is a dream].
        - I [would not go back if they paid me].
        - I had the soup, which was [cold, salty and far too expensive].
        - I waited an hour for [a tough piece of meat].
        = I have only read the menu in the window.
        = I was there on Tuesday, with two people from the office.
        : When do they open? | At six, and the kitchen closes at ten.
        : Do they take cards? | Only cash, I believe.
        : What did you order? | Lentils with onions, and a glass of water.
        """,
    ),
    topic(
        "on the stairs of the office",
        """
        > We have a new manager, as you know.
        > The new manager has been round to us too.
        ? What is the new manager like?
        ? Did you meet the new manager this morning?
        + I [like her a great deal]; she listens.
        + I think [we could not have been luckier] with her.
        + I find her [clever, fair and wonderfully calm].
        - I [cannot bear the way she talks] to people.
        - I think she is [a disaster] for the whole department.
        - I had ten minutes with her, and they were [the most unpleasant of my week].
        = I have only seen her from behind, in the lift.
        = I gave her the keys and showed her the archive.
        : Where does she come from? | From the branch in Antwerp.
        : Which office did she take? | The one beside the copying machine.
        : Who will sit next to her? | Somebody from accounts, for the time being.
        """,
    ),
    topic(
        "at the bus stop",
        """
        > Since spring I have lived in Mill Street.
        > My new flat is on the third floor.
        ? How do you like your new flat?
        ? So you live in Mill Street now, in the same house as I do?
        + I [adore the view] over the canal.
        + I [sleep like a baby] there, it is [so beautifully quiet].
        + I have to say that [the neighbours are lovely people].
        - I [hate the noise] of the trams.
        - I have found [mould in every corner], and [the smell is awful].
        - I am [sick and tired of that lift].
        = I am still unpacking boxes.
        = I have the rooms on the third floor, towards the yard.
        : How many rooms are there? | Two and a half, and a kitchen.
        : Since when have you had it? | Since the first of March.
        : Is there a cellar? | Yes, one for every flat, with a number on the door.
        """,
    ),
    topic(
        "after the concert",
        """
        > So that was the famous orchestra.
        > That was my first concert this winter.
        ? Well, what did you think of the orchestra?
        ? You were at the concert too, weren't you?
        + I was [moved to tears] by the slow movement.
        + I [have rarely heard anything so beautiful].
        + I think that [the young violinist is a marvel].
        - I heard [more wrong notes than right ones].
        - I thought the conductor was [a conceited bore].
        - I [regret every penny] that I spent on the ticket.
        = I sat behind a pillar and heard rather than saw it.
        = I had to leave at the interval, because of the last train.
        : What did they play? | Two symphonies and something for strings.
        : Was the hall full? | The lower part was, the gallery was not.
        : Who was at the piano? | A student from Warsaw.
        """,
    ),
    topic(
        "in the changing room",
        """
        > Now we have had a week with the new coach.
        > That was the first training with him.
        ? What do you make of the new coach?
        ? How did you find the training today?
        + I [feel better than I have in months].
        + I think he is [exactly what the team needed], [a born teacher].
        + I [enjoyed it hugely], even the sprints.
        - I [felt humiliated] in front of everyone.
        - I call it [a waste of time], and [a painful one].
        - I [detest all that shouting].
        = I did half of it, because of my knee.
        = I was in the other group, with the goalkeepers.
        : How often do we train now? | Three times a week, on the upper field.
        : When does it begin? | At half past five, from next Monday on.
        : Who has the ball pump? | It hangs behind the door.
        """,
    ),
    topic(
        "at the kitchen table",
        """
        > My aunt has sent us a cheese from the mountains.
        > This is the cheese that came in the post from my aunt.
        ? Have you tried the cheese that your aunt sent?
        ? What does the cheese taste like?
        + I find it [heavenly], above all with a pear.
        + I [could eat the whole wheel], it is [that good].
        + I give it [full marks], and so does the cat.
        - I think it [tastes like an old sock].
        - I [feel ill at the mere sight of it].
        - I took one bite, and it was [disgusting].
        = I put it on the balcony and have not touched it yet.
        = I cut off a corner and wrapped up the rest.
        : What is it made of? | Sheep's milk, with ash on the outside.
        : How much does it weigh? | Two pounds, more or less.
        : Where does she live now? | In the mountains, above the lake.
        """,
    ),
    topic(
        "in the library",
        """
        > Our reading circle has chosen a new novel.
        > We are to read up to chapter seven.
        ? Have you finished the novel for our reading circle?
        ? What do you say to chapter seven?
        + I [could not put it down], it is [so wonderfully told].
        + I [am in love with the old captain].
        + I think it is [the finest thing that she has written].
        - I [gave up in disgust] after a hundred pages.
        - I found it [pretentious], and [terribly long-winded].
        - I [dislike the hero more with every page].
        = I am on page forty, where the ship leaves.
        = I have lent my copy to a neighbour.
        : How many pages does it have? | Three hundred and twelve.
        : Who translated it? | The same man as last time.
        : When does the circle meet? | On the second Thursday, at eight.
        """,
    ),
    topic(
        "on the platform",
        """
        > I am back from the seaside, from the Hotel Miramar.
        > I was at the Hotel Miramar in spring.
        ? How was your week at the seaside?
        ? You stayed at the Hotel Miramar as well, didn't you?
        + I [had the time of my life], from the first day to the last.
        + I [was spoiled from morning to night], it was [pure bliss].
        + I [can recommend it warmly], above all the breakfast.
        - I [have never slept in such a filthy room].
        - I was [cheated at the desk] and [insulted at the bar].
        - I [count the hours there among my worst].
        = I had a room to the back, on the second floor.
        = I was there in April, when half of it was closed.
        : How did you get there? | By train, and then with the little bus.
        : How far is it to the beach? | Ten minutes on foot.
        : Did you see the lighthouse? | From a distance, on the last day.
        """,
    ),
    topic(
        "beside the coffee machine",
        """
        > They have printed the plan for the park.
        > The council has put out its plan for the park.
        ? What do you think of the plan for the park?
        ? Did you read about the plan for the park?
        + I think it is [a splendid idea], and [high time too].
        + I [welcome it with all my heart].
        + I was [delighted] when I read about it.
        - I call it [a scandal], nothing less.
        - I think it is [an ugly thing in the wrong place].
        - I [am furious about the trees] that have to go.
        = I have yet to see the drawings.
        = I heard about it on the radio, between two songs.
        : When will they start? | In autumn, after the vote.
        : Who pays for it? | Half the city, half the province.
        : Where can one see the model? | In the entrance of the town hall.
        """,
    ),
    topic(
        "in the waiting room",
        """
        > There is a young dentist here now.
        > So this is the practice of the new dentist.
        ? Have you been to the young dentist before?
        ? What is the new dentist like?
        + I [felt in the best of hands] from the start.
        + I found him [gentle], [patient] and [very skilled].
        + I [could recommend him to anybody].
        - I [would rather pull my teeth out myself].
        - I thought he was [rude and careless].
        - I left with [a worse pain] than I had come with.
        = I have my first appointment today.
        = I know only his assistant, who lives in our street.
        : How long have you been waiting? | Since a quarter to nine.
        : Do you have to call first? | Yes, or write a few days ahead.
        : Whose turn is it now? | The lady with the green bag, I think.
        """,
    ),
    topic(
        "behind the school",
        """
        > So that was the geography exam.
        > We had geography in the third hour.
        ? How did the exam go?
        ? You had the geography exam today too, didn't you?
        + I [am really pleased with it], all my topics came up.
        + I thought the questions were [clear and fair].
        + I [had great fun] with the maps.
        - I think I made [a complete mess] of it.
        - I found it [horribly unfair].
        - I [could scream when I think of question four].
        = I handed it in with ten minutes left.
        = I sat by the window, next to the radiator.
        : How many questions were there? | Six, and one could leave out one of them.
        : When shall we know the marks? | A week from Friday.
        : Which river did you write about? | The Danube, from source to mouth.
        """,
    ),
)
