"""Labeling functions for Reuters news of 1987, eight classes.

Every function says one thing that a reader of the business wire knows, votes for a class where it is true, and
abstains everywhere else. None of them has to be right always: the label model learns how far to trust each one.
The texts are lower-cased and carry no figures and no punctuation, so "8.5 pct" reads "pct" and "u.s." reads "u s".

Try a change before it votes:      siftline lf preview
Look at how the functions did:     siftline lf report
"""

import re

from snorkel.labeling import labeling_function

from weak_labels import ABSTAIN, ItemBatch, keywords, nearest, regex, vectorized

# --- earn: quarterly results, dividends, splits ----------------------------------------------------------------------

# The wire sends results as a bare table: "shr 31 cts vs 28 cts net 4.1 mln vs 3.7 mln revs ...".
results_table = keywords(
    "earn",
    ["shr", "oper shr", "net", "revs", "sales", "qtr", "avg shrs", "shr profit", "shr loss", "oper net", "mths", "vs"],
    min_hits=3,
    description="terms of a table of results",
)

dividend = keywords(
    "earn",
    ["dividend", "dividends", "div", "payout", "qtly", "payable", "record", "prior pay", "distribution",
     "holders of record", "sets quarterly", "raises quarterly", "cts a share"],
    min_hits=2,
    description="a dividend, with its record and pay dates",
)  # fmt: skip

stock_split = regex("earn", r"\b(?:stock split|for (?:one|two|three|four|five) (?:stock )?split|stock dividend)\b")

# Companies also tell their results in sentences.
results_in_words = regex(
    "earn",
    r"\b(?:first|second|third|fourth|full|current|fiscal|this|last) (?:quarter|half|year) "
    r"(?:net |operating |pretax |consolidated )*(?:profits?|earnings|results|loss(?:es)?|income)\b",
)

profit_outlook = regex(
    "earn",
    r"\b(?:sees?|expects?|expected|reports?|reported|had|posts?) (?:\w+ ){0,4}"
    r"(?:earnings|profits?|net income|net loss|operating loss|quarter loss|writedown|charge against)\b",
)


STATEMENT_TERMS = {
    "shr", "shrs", "net", "revs", "qtr", "vs", "cts", "mln", "dlrs", "loss", "profit", "oper", "avg", "year", "note",
    "nine", "six", "mths", "div", "qtly", "record", "pay", "prior", "sales", "includes", "excludes", "gain", "pretax",
    "tax", "assets", "deposits", "loans", "billion",
}  # fmt: skip


@vectorized("earn")
def mostly_statement_terms(batch: ItemBatch) -> list[bool]:
    """At least two fifths of the words are the shorthand of a financial statement."""
    shares: list[float] = []
    for text in batch.texts:
        words = text.split()
        shares.append(sum(word in STATEMENT_TERMS for word in words) / max(len(words), 1))
    return [share >= 0.4 for share in shares]


# --- acq: mergers, takeovers, stakes ---------------------------------------------------------------------------------

takeover_words = keywords(
    "acq",
    ["merger", "merge", "takeover", "tender offer", "buyout", "to acquire", "acquires", "acquired", "acquisition of",
     "proposed acquisition", "hostile", "suitor", "unsolicited", "leveraged buyout", "exchange offer"],
    description="words of the takeover business",
)  # fmt: skip

stake_disclosed = regex(
    "acq",
    r"\b(?:stake in|pct stake|pct interest in|pct of (?:its|the) (?:common|outstanding|stock|shares)|"
    r"shares or pct|filing with the securities and exchange|raises? stake|holding in)\b",
)

deal_terms = keywords(
    "acq",
    ["letter of intent", "definitive agreement", "agreement in principle", "terms were not disclosed",
     "undisclosed terms", "undisclosed amount", "undisclosed sum", "completes acquisition", "completed the acquisition",
     "purchase price", "regulatory approval", "subject to approval"],
    description="the small print of a deal",
)  # fmt: skip

agrees_to_buy = regex(
    "acq",
    r"\b(?:agreed|agrees|plans?|intends?|offer(?:s|ed)?|will|seeks?|proposed|has|completed|wants) "
    r"(?:to |in principle to )?(?:buy|acquire|acquired|purchase|sell|sold|bought|merge|divest)\b"
    r".{0,80}\b(?:inc|corp|co|ltd|plc|unit|units|subsidiary|division|operations|shares|stake|assets|business)\b",
)


@labeling_function()
def headline_of_a_deal(x):
    """The headline, which the wire puts first, has somebody buying, selling or bidding for a company."""
    headline = " ".join(x.text.split()[:9])
    deal = re.search(r"\b(buys?|acquires?|sells?|merges?|bids?|completes|divests?|takeover|stake|units?)\b", headline)
    other = re.search(r"\b(qtr|net|dividend|rates?|oil|crude|wheat|corn|dlrs|bonds?|notes)\b", headline)
    return "acq" if deal and not other else ABSTAIN


# --- crude: oil ------------------------------------------------------------------------------------------------------

oil_business = keywords(
    "crude",
    ["oil", "crude", "barrel", "barrels", "bpd", "opec", "petroleum", "refinery", "refineries", "refiners", "wti",
     "west texas intermediate", "drilling", "rigs", "north sea", "gasoline", "energy department", "oil minister"],
    min_hits=2,
    description="at least two words of the oil business",
)  # fmt: skip

oil_price = regex(
    "crude",
    r"\b(?:crude (?:oil )?(?:postings?|prices?|output|production|exports)|oil (?:prices?|output|production|minister|"
    r"field|ministers|industry|imports|exports|demand|supply)|opec|postings? for (?:crude|wti)|a barrel)\b",
)

# --- grain -----------------------------------------------------------------------------------------------------------

grain_crops = keywords(
    "grain",
    ["wheat", "corn", "maize", "barley", "sorghum", "grain", "grains", "rice", "soybeans", "soybean", "rye", "oats",
     "crop", "harvest", "acreage", "bushel", "bushels", "winter wheat", "usda", "agriculture department", "farmers"],
    min_hits=3,
    description="at least three words of the grain trade",
)  # fmt: skip

grain_tenders = regex(
    "grain",
    r"\b(?:tonnes of (?:\w+ ){0,3}(?:wheat|corn|maize|barley|rice|grain|sorghum|cereals)|"
    r"(?:wheat|corn|maize|barley|rice|grain|cereals?) (?:imports?|exports?|crops?|tenders?|sales?|harvest|prices|"
    r"board|shipments?|subsid\w+|program))\b",
)

# --- interest: rates -------------------------------------------------------------------------------------------------

prime_rate = regex(
    "interest", r"\b(?:prime (?:lending )?rates?|(?:raises?|cuts?|lowers?|ups|adjusts) (?:its )?prime)\b"
)

official_rates = regex(
    "interest",
    r"\b(?:discount rates?|base (?:lending )?rates?|lending rates?|deposit rates?|key rates?|lombard rate|"
    r"repo(?:rchase)? rates?|short term rates?|money market (?:intervention )?rates?|mortgage rates?|bill rates?|"
    r"intervention rate|rediscount rate|call money rate)\b",
)


@labeling_function()
def headline_on_rates(x):
    """The headline speaks of rates, and not of those at which currencies are exchanged."""
    headline = " ".join(x.text.split()[:10])
    rates = re.search(r"\b(interest|rates?|prime|credit policy|yields?)\b", headline)
    other = re.search(r"\b(exchange|dollar|currency|currencies|yen|mark|growth|tax|freight|inflation)\b", headline)
    return "interest" if rates and not other else ABSTAIN


# --- money-fx: currencies and money markets --------------------------------------------------------------------------

currencies = keywords(
    "money-fx",
    ["dollar", "yen", "mark", "sterling", "currency", "currencies", "exchange rate", "exchange rates", "intervention",
     "intervened", "intervene", "central bank", "central banks", "foreign exchange", "group of seven", "louvre",
     "paris accord", "paris agreement", "devaluation", "dealers", "ems", "bundesbank", "bank of japan"],
    min_hits=4,
    description="at least four words of the currency markets",
)  # fmt: skip

money_market_help = regex(
    "money-fx",
    r"\b(?:money market (?:\w+ ){0,3}(?:shortage|assistance|help|liquidity|deficit|surplus|forecast)|"
    r"(?:assistance|help|liquidity|shortage) (?:\w+ ){0,4}money market|market (?:shortage|liquidity)|"
    r"(?:adds?|drains?|supply|injects?) (?:\w+ ){0,3}(?:reserves|liquidity)|customer repurchase|system repurchase)\b",
)

# --- ship ------------------------------------------------------------------------------------------------------------

ships_and_ports = keywords(
    "ship",
    ["ship", "ships", "shipping", "vessel", "vessels", "port", "ports", "tanker", "tankers", "cargo", "cargoes",
     "seamen", "dockers", "dock", "longshoremen", "ferry", "shipyard", "shipyards", "shipbuilding", "harbour", "harbor",
     "seaway", "canal", "freight", "bulk carrier", "shipowners", "crew", "coastguard", "dwt", "berth", "berths"],
    min_hits=3,
    description="at least three words of shipping",
)  # fmt: skip

trouble_at_sea = regex(
    "ship",
    r"\b(?:(?:seamen|dockers|port workers|longshoremen|pilots?)(?: s)? (?:\w+ ){0,3}strikes?|"
    r"(?:tankers?|ships?|vessels?|ferry) (?:\w+ ){0,5}(?:hit|attacked|sank|sunk|aground|capsized|collided|missile)|"
    r"(?:protect|escort|reflag\w*) (?:\w+ ){0,5}(?:tankers?|shipping|ships|vessels))\b",
)

# --- trade -----------------------------------------------------------------------------------------------------------

trade_balance = regex(
    "trade",
    r"\b(?:trade (?:deficits?|surplus(?:es)?|gap|imbalances?|balance|bill|barriers?|war|friction|dispute|sanctions|"
    r"representative|retaliation|legislation|talks|policy|relations|minister|protection\w*)|current account (?:deficit|"
    r"surplus)|balance of trade|free trade|trade markets|world trade)\b",
)

trade_quarrels = keywords(
    "trade",
    ["tariff", "tariffs", "gatt", "protectionism", "protectionist", "yeutter", "semiconductor", "semiconductors",
     "microchips", "dumping", "retaliation", "retaliate", "sanctions", "quotas", "unfair", "import restrictions",
     "open its market", "open its markets", "open markets", "exports", "imports", "exporters", "bilateral",
     "uruguay round"],
    min_hits=3,
    description="at least three words of trade policy",
)  # fmt: skip

# --- all classes: what does it resemble? -----------------------------------------------------------------------------

nearest_example = nearest(
    {
        "acq": [
            "company agrees to acquire rival in a cash and stock merger subject to shareholder and regulatory approval",
            "investor group raises its stake in the firm to pct of the common shares and may seek control",
            "corporation sells its chemicals unit to a private buyer for an undisclosed sum",
        ],
        "crude": [
            "opec ministers meet to defend oil prices and agree on a ceiling for crude production in barrels per day",
            "refiner raises its posted price for west texas intermediate crude oil",
            "exploration company finds oil offshore and starts drilling another well in the north sea",
        ],
        "earn": [
            "fourth quarter shr cts vs cts net mln vs mln revs mln vs mln year shr dlrs vs dlrs",
            "board declares regular quarterly dividend of cts a share payable to holders of record",
            "company reports higher annual profit and expects earnings to improve in the current year",
        ],
        "grain": [
            "agriculture department reports export sales of wheat and corn to the soviet union",
            "farmers expect a smaller grain harvest after dry weather in the wheat belt",
        ],
        "interest": [
            "major bank raises its prime lending rate by half a percentage point",
            "central bank cuts its discount rate to bring down interest rates and help the economy",
        ],
        "money-fx": [
            "dollar falls against the yen and the mark despite intervention by central banks",
            "bank of england gives the money market assistance to relieve a shortage by buying bills",
            "finance ministers agree to keep exchange rates stable around present levels",
        ],
        "ship": [
            "tanker is attacked in the gulf and the navy escorts merchant vessels",
            "dockers strike closes the port and cargo ships wait outside the harbour",
        ],
        "trade": [
            "trade surplus with the united states widened as exports rose faster than imports",
            "congress debates a trade bill with tariffs to punish countries that keep their markets closed",
        ],
    },
    radius=0.6,
    description="nearest of some typical sentences",
)
