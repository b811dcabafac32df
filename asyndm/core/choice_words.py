"""Words that are no objects, and how they are told: what :mod:`asyndm.core.choice` goes by."""

from __future__ import annotations

import re

from asyndm.core.matching import ARTICLES

# Never objects of an automatic choice: function words, and what bodies do.
FUNCTION_WORDS = frozenset(
    """
    a about above across after again against all along alongside already also although always am
    among an and another any anyone anything are around as at away because be been before behind
    being below beneath beside between beyond both but by can cannot close could dark did do does
    down during each eight eleven either else even ever every everyone everything exactly few five
    for four from front full had half has have having he her here hers herself him himself his how
    however i if in inside instead into is it its itself just large least left less like long lots
    many may me middle might mine more most much must my myself near neath neither never next nine
    no nobody none nor not nothing of off often on once one only onto or other others our ours out
    outside over own per perhaps please quite rather right same she should since single six small
    so some someone something somewhere soon still such ten than that the their theirs them
    themselves then there these they this those though three through thus to together too top
    toward towards twelve two under underneath unless until up upon us versus very via was we were
    what whatever when where whereas whether which while who whom whose why will with within
    without would yet you your yours zero break seven several bottom
    riding sitting standing lying holding wearing eating flying swimming jumping looking walking
    running playing driving sleeping hanging facing made
    """.split()
)
# Words about the picture, and colours and sizes: they describe the word that follows.
PICTURE_WORDS = frozenset(
    """
    big little tall tiny huge young old new
    black white red green blue yellow orange purple pink brown gray grey cyan magenta teal beige
    photo photograph photography picture image painting portrait illustration sketch drawing
    masterpiece poster wallpaper render rendering artwork art style styled quality best high
    highly detailed detail details resolution realistic photorealistic hyperrealistic cinematic
    lighting light lights shot closeup closeups up hd uhd k bokeh lens camera background
    foreground scene view trending artstation octane unreal engine award winning beautiful
    stunning cute aesthetic intricate sharp focus depth field digital anime watercolor oil
    canvas dramatic professional ultra super epic concept design vibrant colorful colourful
    color colour colors colours score nsfw sfw solo uncropped highres absurdres lowres newest
    screencap hdr dof raw dslr mm fps cg cgi vfx rtx wip pov conceptart trope
    """.split()
)
STOP_WORDS = FUNCTION_WORDS | PICTURE_WORDS
# Articles, prepositions and the like of other languages people prompt in.
FOREIGN_STOP_WORDS = ARTICLES | frozenset(
    """
    de du au aux dans sur sous avec et à en chez pour par près est sont très qui que son sa ses
    con y por para entre sobre sin es del al su muy junto
    auf mit und im am von zu zum zur unter über neben bei ist sind vor hinter aus einem einer eines
    di della delle dei nel nella sul sulla e ed è da per tra vicino accanto
    no na nos nas do dos das com em ao à perto
    op met van onder naast bij voor
    и в во на с со у под над за из к ко о об по для от до рядом между перед при это
    і й та з із до біля
    assis assise debout tenant portant mange court
    sentado sentada sentados de pie parado parada sostiene lleva come corre
    sitzt sitzend steht stehend liegt hält trägt isst läuft fährt
    seduto seduta seduti in piedi tiene indossa mangia corre
    em pé segurando vestindo comendo correndo zit staat ligt houdt draagt
    siedzi stoi leży trzyma nosi
    сидит сидят сидя стоит стоят лежит лежат держит бежит едет едят ест летит идет идёт играет
    sotto sopra dentro fuori dietro davanti debajo encima detrás delante dentro derrière devant
    dessous dessus zwischen onder boven
    bir ve ile üzerinde w z ze na i oraz pod nad przy
    """.split()
)
# Behind a word they make it say how the picture is: "cowboy shot", "animal focus".
OF_THE_PICTURE = frozenset(
    "shot shots view views focus background backdrop style theme lighting light angle form".split()
)
# What follows is not to be seen.
DENYING = frozenset("no without sans ohne sin senza sem zonder bez без".split())
# Of the picture or in it: a thing only where something is said of it: "a poster warning of ...".
SOMETIMES_THINGS = frozenset("camera cameras poster posters lens lenses canvas".split())
DETERMINERS = frozenset(
    "a an another his her their its my our your each two three four five six several some".split()
)
# Behind a poster they tell what it shows.
_SHOWS = "of for in with about by featuring showing depicting that"
SHOWING = frozenset(_SHOWS.split())
# Nouns that before another noun tell its colour: "an orange cat" holds no fruit.
COLOUR_NOUNS = frozenset(
    """
    amber apricot aqua cherry chocolate copper coral emerald jade lavender lemon lilac lime mint
    mustard olive orange peach pearl plum rose ruby salmon sapphire strawberry turquoise violet
    """.split()
)
# Whoever follows them made the picture or is where it was made.
NO_SUBJECT_AFTER = frozenset("by in at from style of near via made inspired using".split())
ADJECTIVE = re.compile(
    r".{2,}(?:ing|ed|ly|ful|ous|ish|less|i[ct]al|able|ible|esque|est|like|ness|ism|ity|[st]ion|[ai]c|ive)"
)
# Where nothing was found they tell which words are none either.
NO_CONTENT = re.compile(r".{2,}(?:al|ese|en)")
# In an unknown word they tell a verb: nothing is named before "totoro walks" but its subject.
VERB = re.compile(r".{2,}(?:ing|ed|s)")
CONTRACTED = re.compile(r"n['’]t\b|['’](?:s|re|ve|ll|d|m)\b", re.IGNORECASE)
MINUS = re.compile(r"(?<![^\s,;(\[])[-−–](?=[^\W\d_])[^\s,;)\]]+")
# Chinese and Japanese words that stand between things.
BETWEEN_SIGNS = re.compile(
    r"[坐站躺走跑飞飛拿穿戴吃喝看骑騎抱趴睡跳游玩举舉](?=[在着著了过過])"
    r"|[的在和与與跟里裡中上下着著了是有被把、。一二两兩三四五六七八九十几幾]+"
    r"[只隻個个匹條条張张輛辆座朵把杯名位本艘架頭头]?"
    r"|[のにをはがでともへや]+|から|(?:匹|人|個|台)の"
)
LEADING_VERB = re.compile(r"[戴穿抱](?=..)")
# Inflected verbs of Japanese and Korean.
VERB_ENDING = re.compile(
    r".*(?:ている|ってる|います|ます|した|する|った|いる|[다고서며요어아])|[玩走跑坐站飞]"
)
HANGUL = re.compile(r"[\uac00-\ud7a3]")
HANGUL_PARTICLE = re.compile(r".+[이가을를에의은는와과로]")
