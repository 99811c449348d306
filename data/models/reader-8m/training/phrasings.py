"""Words and phrasings of the planted statements and questions.

A *statement* ties a value to a key ("The secret number of the silver fox is 48213."); a *question* asks for it
later ("What is the secret number of the silver fox? It is"). Statement and question phrasings combine freely, so
a few dozen of each give thousands of combinations.

Every list comes in two parts that share nothing: what training draws from, and what only the evaluation uses
(`HELD_OUT`). Fields of a phrasing:

  {k}, {K}   the key as a noun phrase, inside a sentence and at its start ("the silver fox", "The silver fox")
  {b}        the key bare ("silver-fox"), for table-like phrasings
  {a}        the attribute ("secret number")
  {v}        the value; in a question everything from {v} on is the answer, then what closes it
"""

from dataclasses import dataclass

ADJECTIVES = """red blue green silver golden old young tall short quiet loud brave clever gentle bitter sweet cold warm
dark bright heavy light strange famous hidden broken wooden iron copper marble ancient little great hungry sleepy honest
proud humble wild tame purple yellow crimson scarlet white black grey brown pale narrow broad deep shallow rusty dusty
polished painted carved gilded velvet silken leather crystal bronze leaden stony sandy muddy frozen burning smoking
silent weary merry gloomy jolly cunning foolish wise faithful stubborn lazy busy nervous patient cheerful solemn lonely
noble royal sacred holy cursed lost forgotten secret distant northern southern eastern western early late round square
crooked straight smooth rough sharp blunt hollow solid empty open locked sealed new worn tattered spotted striped""".split()
HELD_OUT_ADJECTIVES = """amber violet ivory woollen limping whistling thirsty modest furious timid slender enormous tiny
granite mossy snowy thorny curious grateful jealous""".split()

NOUNS = """fox horse castle river garden captain doctor sailor teacher painter baker soldier hunter bishop merchant
carpenter mountain valley bridge tower forest island harbour village library kitchen lantern mirror carriage violin clock
letter ring sword crown basket candle window ladder wagon lion tiger bear wolf eagle raven owl swan goose hare badger
otter beaver camel elephant monkey parrot spider beetle bee salmon trout whale ship boat barge anchor lighthouse mill
barn stable cottage palace chapel church abbey temple market inn tavern theatre museum school prison fortress gate door
chest box trunk purse bottle barrel cup plate spoon knife kettle lamp torch drum flute trumpet harp piano painting statue
map book scroll ledger diary ticket stamp coin medal jewel pearl ruby emerald diamond necklace bracelet glove coat cloak
hat boot saddle bridle whip spear shield helmet cannon musket gardener miller shepherd fisherman farmer tailor cobbler
weaver potter smith mason clerk lawyer judge sheriff priest monk nun duke duchess prince princess king queen knight
squire servant butler maid nurse cook guard pilot poet singer dancer actor juggler thief beggar pilgrim stranger
traveller messenger spy widow orphan uncle cousin""".split()
HELD_OUT_NOUNS = """walrus heron hedgehog falcon windmill monastery observatory schooner hammock telescope compass
thimble umbrella accordion tapestry goblet blacksmith apothecary astronomer ferryman""".split()

TITLES = "Mr. Mrs. Miss Dr. Captain Colonel Major General Lord Lady Sir Professor Aunt Uncle Father Sister Madame Monsieur".split()
FIRST_NAMES = """Anna Arthur Alice Albert Agnes Andrew Beatrice Benjamin Clara Charles Caroline Christopher Dorothy David
Edith Edward Eliza Edmund Fanny Francis Florence Frederick Grace George Hannah Harold Harriet Henry Isabel Isaac Julia
James Jane John Kate Lawrence Laura Leonard Louisa Lewis Lucy Luke Margaret Martin Martha Matthew Mary Michael Nancy
Nathaniel Nicholas Oliver Olivia Patrick Peter Philip Rachel Ralph Rebecca Richard Robert Rose Roger Ruth Samuel Sarah
Simon Sophia Stephen Susan Theodore Thomas Victoria Vincent Walter William""".split()
HELD_OUT_FIRST_NAMES = "Matilda Rupert Winifred Barnaby Cecily Jasper Rosalind Gilbert Tabitha Ambrose".split()
SURNAMES = """Ashford Bailey Barton Bell Blackwood Bolton Bridges Brooks Burton Carter Chapman Clarke Cole Cooper Crawford
Dalton Dawson Douglas Drake Duncan Ellis Evans Fairfax Finch Fisher Fletcher Forbes Foster Fox Gardner Gibson Gordon
Graham Grant Gray Greene Hale Hall Hamilton Harcourt Harding Harper Hayes Hill Holt Howard Hudson Hughes Hunter Irving
Jennings Johnson Kennedy King Knight Lambert Lane Lewis Lindsay Lloyd Mason Marsh Mercer Miller Mills Moore Morgan
Norton Osborne Owen Palmer Parker Pearson Perry Porter Price Quinn Reed Rhodes Rivers Rogers Russell Scott Shaw Shelton
Sinclair Stone Sutton Taylor Thornton Turner Vaughan Wallace Walsh Warren Watson Webb Wells West Wilson Wood Wright Young""".split()
HELD_OUT_SURNAMES = "Pemberton Whitlock Hargreaves Lockhart Winslow Merriweather Thistlewood Bancroft Tolliver Penrose".split()
PLACES = """Ambleside Bath Brighton Bristol Cambridge Canterbury Chester Dover Dublin Durham Edinburgh Exeter Florence
Geneva Glasgow Hamburg Kent Lincoln Lisbon London Lyme Madrid Moscow Naples Norfolk Oxford Paris Plymouth Portsmouth
Rome Salisbury Surrey Venice Vienna Warwick Winchester York""".split()
HELD_OUT_PLACES = "Harrogate Penzance Seville Inverness Ravenna Whitby Cordoba Shrewsbury".split()

ATTRIBUTES = """secret number|number|code|secret code|password|lucky number|price|weight|age|locker number|key number
ticket number|magic number|special number|house number|serial number|account number|page number|cipher|reference number
badge number|room number|pass code|tally|score|debt|rent|height|length|value|worth|wage|fee|fine|prize|reward|fortune
rank|index|label|mark|sign|combination|access code|box number|order number|patent number|telephone number|measure
reading|figure|total|sum|amount|balance|quota|share|date|watchword|signal""".replace("\n", "|").split("|")
HELD_OUT_ATTRIBUTES = """identification number|vault code|catalogue number|postal code|toll|dowry|altitude|admission charge
berth number|password digits|licence number|inheritance""".replace("\n", "|").split("|")

# --- phrasings with an attribute -------------------------------------------------------------------------------

STATEMENTS = """The {a} of {k} is {v}.
The {a} of {k} was {v}.
{K} has the {a} {v}.
{K} had {v} as {a}.
{K}'s {a} is {v}.
Remember that the {a} of {k} is {v}.
Remember: the {a} of {k} is {v}.
Note that {k} has the {a} {v}.
{v} is the {a} of {k}.
{v} was the {a} which belonged to {k}.
For {k}, the {a} is {v}.
As for {k}, the {a} was {v}.
They say that the {a} of {k} is {v}.
It was written in the book that {k} had the {a} {v}.
The {a} given to {k} was {v}.
The {a} for {k} is {v}.
The {a} for {k} is: {v}.
One of the special {a}s for {k} is: {v}.
Do not forget the {a} of {k}: {v}.
Everybody knew that the {a} of {k} was {v}.
Somebody had told her the {a} of {k}, which was {v}.
The {a} belonging to {k} is {v}.
"The {a} of {k} is {v}," he said.
"{K} has {a} {v}," said she.
When asked about {k}, he gave {v} as the {a}.
{K}: {a} {v}.
{K}, {a} {v}.
({K} has the {a} {v}.)
The {a} of {k} shall be {v}.
You will find that the {a} of {k} is {v}.
He wrote down {v}, the {a} of {k}.
{K} was known by the {a} {v}.
{K} got {v} for a {a}.
The {a} that {k} chose was {v}.
Here is the {a} of {k}: {v}.
By the way, {k} has the {a} {v}.
In truth the {a} of {k} is {v}.
The clerk entered {v} as the {a} of {k}.
As the letter says, the {a} of {k} is {v}.
I heard that {k} has {v} for {a}.
My aunt believes the {a} of {k} to be {v}.
On the wall one saw the {a} of {k}: {v}.
At last the {a} of {k} was found to be {v}.
{K} ({a} {v}) came in.
The {a}, in the case of {k}, is {v}.
Of {k} I know only the {a}, {v}.
Keep in mind the {a} {v} of {k}.
That is {k}, whose {a} is {v}.
{K}, whose {a} was {v}, went away.
There is {k} with the {a} {v}.
Then {k} showed me the {a} {v}.
A paper gave the {a} of {k} as {v}.
With {v} as its {a}, {k} was content.
He called out the {a} of {k}, {v}, twice.
Attention: {k}, {a} {v}!
It is {v} that serves {k} as {a}.
INFO {k} {a} {v}
The {a} which one sees on {k} is {v}.
I wrote the {a} of {k} on my hand: {v}.
Between us, {k} has the {a} {v}.
Fact: {k}'s {a} equals {v}.""".split("\n")
HELD_OUT_STATEMENTS = """According to the register, {k} carries the {a} {v}.
Let it be known that {v} is what they assigned to {k} as {a}.
We learned yesterday of {k} that its {a} comes to {v}.
The {a} on record for {k} reads {v}.
Nobody would guess it, yet {k} answers to {a} {v}.
Under the heading of {k} stands the {a} {v}.
My notebook lists the {a} of {k} as {v}.
Our neighbour swore that {k} kept {v} for its {a}.
Take down this {a} belonging to {k}, namely {v}.
Whoever meets {k} should mention the {a} {v}.
Etched upon the back of {k} one can see the {a} {v}.
Grandmother always mentioned {v} whenever we spoke of the {a} of {k}.
Since spring the {a} of {k} has stood at {v}.
Customs officers noted {v} beside the {a} of {k}.
Please memorise that {k} goes by the {a} {v}.
Rumour has it that {v} became the {a} of {k}.""".split("\n")

QUESTIONS = """What is the {a} of {k}? It is {v}.
What is the {a} of {k}? The answer is {v}.
What is the {a} of {k}? {v}.
What is the {a} of {k}? The {a} of {k} is {v}.
What was the {a} of {k}? It was {v}.
What is {k}'s {a}? {K}'s {a} is {v}.
What is {k}'s {a}? It is {v}.
Question: what is the {a} of {k}? Answer: {v}.
Question: What is the {a} of {k}?\\nAnswer: {v}.
Q: What is the {a} of {k}?\\nA: {v}.
Q: Which {a} does {k} have? A: {v}.
What {a} does {k} have? It has {v}.
The {a} of {k} is {v}.
The {a} of {k} was {v}.
Tell me the {a} of {k}: {v}.
Tell me the {a} of {k}. It is {v}.
Which {a} has {k}? It has {v}.
Do you remember the {a} of {k}? Yes, it is {v}.
"What was the {a} of {k}?" "It was {v}."
"Pray, what is the {a} of {k}?" he asked. "It is {v}," said she.
The {a} of {k} was, as we have read, {v}.
Let me recall the {a} of {k}. It is {v}.
What is the {a} for {k}? It is {v}.
What is the special {a} for {k} mentioned in the provided text? The special {a} for {k} mentioned in the provided text is {v}.
Give the {a} of {k}: {v}.
{K}: {a} {v}.
What {a} was given to {k}? It was {v}.
I ask you for the {a} of {k}. You answer: {v}.
As we know, {k} has the {a} {v}.
So {k} had the {a} {v}.
Find the {a} of {k} in the text. It is {v}.
Can you tell me the {a} of {k}? It is {v}.
{K} has the {a} {v}.
Which {a} belongs to {k}? It is {v}.
Now then, the {a} of {k}? {v}.
I wonder what the {a} of {k} is. I think it is {v}.
She asked for the {a} of {k}, and was told {v}.
Say the {a} of {k}! {v}.
Who remembers the {a} of {k}? I do: {v}.
For {k} the {a} would be {v}.
Problem: {a} of {k}. Solution: {v}.
Test question. {K}, {a}? Right answer: {v}.
When asked for the {a} of {k}, say {v}.
In the case of {k} the {a} is {v}.
To recall, {k} had {v}.
And {k}, what {a} had it? {v}.
The text gives the {a} of {k} as {v}.
User: {a} of {k}?\\nAssistant: {v}.
Question: {a} of {k}?\\nResponse: {v}.
Whenever I think of {k}, I think of the {a} {v}.
What did we learn about the {a} of {k}? That it is {v}.
Is there a {a} for {k}? There is: {v}.
Therefore the {a} of {k} equals {v}.
Complete: the {a} of {k} is {v}.
{a} of {k} = {v}
{a}, {k}: {v}
Earlier we read about {k}. The {a} was {v}.
The correct {a} of {k}: {v}.
My memory says that {k} has the {a} {v}.""".split("\n")
QUESTIONS = [question.replace("\\n", "\n") for question in QUESTIONS]
HELD_OUT_QUESTIONS = """Somebody wants to know which {a} goes with {k}, and I reply {v}.
Turning back a few pages, we see that {k} carries the {a} {v}.
Could anyone here repeat the {a} that concerns {k}? Certainly: {v}.
Exam: state the {a} of {k}. Reply: {v}.
If you had to write the {a} of {k} on paper, you would write {v}.
Looking for {k}... {a} found: {v}.
How does the {a} of {k} read? It reads {v}.
"And {k}?" - "The {a} there comes to {v}."
Please fill in the {a} of {k}: {v}.
With regard to {k}, its {a} must be {v}.
Which value did the story give for the {a} of {k}? The story gave {v}.
Suppose a friend inquires after the {a} of {k}; the honest response would be {v}.
Pop quiz about {k}! Its {a}: {v}.
Before going on, recall that the {a} of {k} stood at {v}.
Looking up {k} in the index, we get the {a} {v}.
How should I label {k}? Use its {a}, {v}.""".split("\n")

# --- phrasings with a verb of their own: (statements, questions) --------------------------------------------------

VERBS = [
    (["{K} weighs {v} pounds.", "They found that {k} weighed {v}.", "Remember: {k} weighs {v}."],
     ["How much does {k} weigh? It weighs {v}.", "How heavy is {k}? {v} pounds."]),
    (["{K} costs {v} pounds.", "{K} was sold for {v}.", "He paid {v} for {k}."],
     ["How much does {k} cost? It costs {v}.", "What did he pay for {k}? He paid {v}.", "{K} was sold for {v}."]),
    (["{K} lives at number {v}.", "You may find {k} at number {v}."],
     ["Where does {k} live? At number {v}.", "At which number shall I find {k}? At number {v}."]),
    (["{K} owes {v} shillings.", "It is said that {k} owes {v}."],
     ["How much does {k} owe? {v} shillings.", "What does {k} owe? The debt is {v}."]),
    (["{K} has travelled {v} miles.", "It is {v} miles to {k}."],
     ["How many miles for {k}? {v} miles.", "How far was it with {k}? It was {v} miles."]),
    (["{K} counted {v} stars.", "{K} owned {v} books.", "{K} gathered {v} apples."],
     ["How many had {k}? {K} had {v}.", "How many were there with {k}? There were {v}."]),
    (["{K} answers to the name of {v}.", "They call {k} by the word {v}."],
     ["What do they call {k}? They call it {v}.", "To what does {k} answer? To {v}."]),
    (["{K} stands on shelf {v}.", "Look for {k} on page {v}.", "{K} is kept in box {v}."],
     ["Where is {k} kept? In {v}.", "Where should one look for {k}? Under {v}."]),
    (["{K} won {v} points in the game.", "In the contest {k} scored {v}."],
     ["What did {k} score? {K} scored {v}.", "How many points for {k}? {v}."]),
    (["{K} told me: {v}.", "{K} whispered {v}.", "\"{v},\" said {k}."],
     ["What did {k} say? {K} said {v}.", "What were the words of {k}? {v}."]),
    (["{K} needs {v} to be opened.", "To open {k}, turn the dial to {v}."],
     ["How is {k} opened? With {v}.", "What opens {k}? It is {v}."]),
    (["{K} was born in the year {v}.", "{K} dates from {v}."],
     ["When was {k} born? In {v}.", "From when does {k} date? From {v}."]),
]
HELD_OUT_VERBS = [
    (["{K} earned {v} crowns last winter.", "Last winter brought {k} exactly {v} crowns."],
     ["What were the earnings of {k}? They were {v}.", "How many crowns did {k} earn? {K} earned {v}."]),
    (["{K} rode on train {v} to the coast.", "The train which carried {k} had {v} painted on its side."],
     ["On which train did {k} ride? On train {v}.", "The train of {k} bore {v}."]),
    (["{K} drank {v} glasses of water.", "No fewer than {v} glasses were emptied by {k}."],
     ["How many glasses did {k} drink? {K} drank {v}.", "Glasses emptied by {k}: {v}."]),
    (["{K} planted {v} tulips by the wall.", "By the wall {k} set out {v} tulips."],
     ["How many tulips did {k} plant? The tulips were {v}.", "Tulips of {k}: {v}."]),
    (["{K} signs every paper with {v}.", "Every paper from {k} bears the signature {v}."],
     ["How does {k} sign papers? With {v}.", "The signature used by {k} is {v}."]),
]

# --- phrasings of loose words: {past}, {past2}, {verb} and {things} are from the lists below, {w} and {w2} any words ----

LOOSE_STATEMENTS = """{K} {past} {v} {things}.
{K} {past} {v}.
There were {v} {things} that {k} {past}.
{v} {things} were {past} by {k}.
At least {v} {things} were {past} by {k}.
{K}, which {past} the {w}, {past2} {v}.
The {w} of {k} {past} {v}.
The {w} in the {w2} of {k} {past} {v} {things}.
We {past} {k} and {past2} {v}.
He {past} that {k} {past2} {v}.
They {past} {v} for {k}.
In the {w}, {k} {past} {v}.
{K} is {w} and its {w2} {v}.
About {k} they {past}: {v}.
{K} with the {w} {v}.
The {w} which {past} {k} had the {w2} {v}.
Every {w} near {k} {past} {v}.""".split("\n")
LOOSE_QUESTIONS = """How many {things} were {past} by {k}? {v}.
How many {things} has {k} {past}? {K} {past} {v}.
How many {things} did {k} have? They were {v}.
How many {things}, {k}? {v}.
What of {k}? {v}.
And what about {k}? They {past} {v}.
What {w} {past} {k}? It {past2} {v}.
Which {w} of {k} was {past}? {K} {past2} {v}.
The {things} of {k}: {v}.
The {things} that {k} {past}: {v}.
The {w} of {k} {past} {v}.
The {w} of {k} had the {w2} {v}.
If they {past} {k}, it would be {v}.
Considering {k}, its {w} would be {v}.
I {past} the {w} of {k}, and it {past2} {v}.
They asked for the {w} of {k}, and he {past} {v}.
He asked which {w} {past} {k}, and they {past2} {v}.
"{K}?" they {past}. "{v}," he {past2}.
"And what of {k}?" "The {w} {past} {v}."
"What about {k}?" - "Its {w} {past} {v}."
Please {verb} the {w} of {k}: {v}.
{verb} {k}; {v}.
Test: {w} of {k}. Result: {v}.
Task: {verb} the {w} of {k}. Solution: {v}.
The {w} of {k}? {v}.
On the matter of {k}, the {w} would be {v}.
On {w} did {k} {verb}? On {v}.
Reading again, one sees that {k} {past} {v}.
As for the {w} of {k}, I say {v}.
Anyone knows the {w} of {k}; surely {v}.
{K} and its {w}: {v}.
Can anybody {verb} the {w} of {k}? Surely: {v}.
They {past} {k}... {w} {past2}: {v}.
If I were to {verb} the {w} of {k}, I should {verb} {v}.""".split("\n")
PAST = """bought carried caught made gave took brought saw heard kept lost sent wrote read built broke baked burned buried
painted picked pulled pushed raised received returned saved sold showed stole taught threw told touched turned used wanted
washed watched wore won worked shot sang hid held gained finished followed filled emptied dropped divided discovered
described delivered declared cut covered counted cooked collected cleaned claimed chose changed borrowed blessed beat asked
answered added accepted accompanied admired said named marked""".split()
VERBS_PLAIN = """show say name give read announce report recite present declare supply tell provide return print copy enter
type find add send take bring call choose describe explain offer open put see speak think use want""".split()
THINGS = """apples letters bricks coins cows sheep sticks stones shells loaves pages miles steps days years men women boys
horses ships nails ropes plates spoons lamps birds eggs fishes trees flowers roses songs words lines houses windows doors
keys rings stars tickets guests barrels sacks pins ribbons buttons pounds guineas""".split()

# --- table-like phrasings -----------------------------------------------------------------------------------------

RECORDS = ["{b} = {v}", "{b}: {v}", "{b} -> {v}", "key {b} = {v}", "[{b}] {v}", "\"{b}\": \"{v}\",", "{b} | {v} |",
           "* {b}: {v}", "<{b}> {v} </{b}>", "set {b} {v}", "{b} equals {v};", "entry {b}, value {v}.", "({b}, {v})",
           "let {b} be {v}.", "- {b} - {v}", "record {b}: {v}"]
HELD_OUT_RECORDS = ["store {b} => {v}", "{b} :: {v}", "item {b} holds {v}."]
LOOKUPS = ["lookup {b} -> {v}", "{b} = {v}", "{b}: {v}", "get {b} {v}", "key {b} = {v}", "\"{b}\": \"{v}\"", "value of {b}: {v}",
           "What is {b}? {v}.", "print {b}\n{v}", "find {b}; found {v}", "[{b}] {v}", "Q: {b} A: {v}", "{b} -> {v}",
           "What is the value of {b}? The value of {b} is {v}."]
HELD_OUT_LOOKUPS = ["fetch {b} => {v}", "{b}? answer {v}", "item {b} holds {v}."]

# --- values that change, values that pile up, the key of a value --------------------------------------------------

UPDATES = ["The {a} of {k} is now {v}.", "The {a} of {k} has changed to {v}.", "{K} now has the {a} {v}.",
           "From this day the {a} of {k} is {v}.", "They changed the {a} of {k} to {v}."]
UPDATE_QUESTIONS = ["What is the {a} of {k} now? It is {v}.", "What is the latest {a} of {k}? It is {v}.",
                    "The {a} of {k} is now {v}.", "What {a} does {k} have at last? It has {v}."]
LIST_QUESTIONS = ["List every {a} of {k}: {v}.", "What are all the {a}s of {k}? They are {v}.",
                  "Name each {a} that {k} had. {v}.", "Which {a}s did {k} have? {K} had {v}."]
REVERSE_QUESTIONS = ["Whose {a} is {x}? It is that of {v}.", "Who has the {a} {x}? The answer is {v}.",
                     "The {a} {x} belongs to {v}.", "To whom belongs the {a} {x}? To {v}."]

# --- variable tracking: (assignment, link, questions); {x} is assigned, {y} is where its value comes from ----------

CHAINS = [
    ("{x} = {v}", "{x} = {y}", ["print {x} -> {v}", "What is {x}? {x} is {v}.", "{x} == {v}"]),
    ("VAR {x} = {v}", "VAR {x} = VAR {y}", ["What is VAR {x}? It is {v}.", "VAR {x} == {v}"]),
    ("let {x} be {v}.", "let {x} be {y}.", ["What is {x}? It is {v}.", "Then {x} is {v}."]),
    ("The value of {x} is {v}.", "The value of {x} is the value of {y}.",
     ["What is the value of {x}? It is {v}.", "The value of {x} is {v}."]),
    ("{x} has {v}.", "{x} has the same as {y}.", ["What has {x}? It has {v}.", "So {x} has {v}."]),
    ("{x} := {v};", "{x} := {y};", ["show {x}; {v}", "{x} is {v}"]),
    ("Put {v} into {x}.", "Copy {y} into {x}.", ["What is in {x}? It is {v}.", "Look into {x}: {v}."]),
    ("{x} received {v}.", "{x} received what {y} had.", ["What did {x} receive? {v}.", "In the end {x} had {v}."]),
]
NAMED_CHAINS = [
    ("The {a} of {x} is {v}.", "The {a} of {x} is the same as the {a} of {y}.", ["What is the {a} of {x}? It is {v}."]),
    ("The {a} of {x} was {v}.", "{X} has the {a} of {y}.", ["What is the {a} of {x}? It is {v}.", "The {a} of {x} was {v}."]),
]

# --- counting: (the event, its question) --------------------------------------------------------------------------

EVENTS = [
    ("The bell of {k} rang.", "How many times did the bell of {k} ring? It rang {v} times."),
    ("{K} sneezed.", "How many times did {k} sneeze? {K} sneezed {v} times."),
    ("A letter came for {k}.", "How many letters came for {k}? There came {v}."),
    ("{K} knocked at the door.", "How often did {k} knock? {K} knocked {v} times."),
    ("One more point for {k}.", "How many points has {k}? {K} has {v}."),
    ("mark {k}", "count {k} -> {v}"),
]

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Wording:
    """Everything that planted text is worded with."""
    adjectives: list
    nouns: list
    first_names: list
    surnames: list
    places: list
    attributes: list
    statements: list
    questions: list
    verbs: list
    records: list
    lookups: list


TRAINING = Wording(ADJECTIVES, NOUNS, FIRST_NAMES, SURNAMES, PLACES, ATTRIBUTES, STATEMENTS, QUESTIONS, VERBS, RECORDS, LOOKUPS)
HELD_OUT_WORDING = Wording(ADJECTIVES, NOUNS, FIRST_NAMES, SURNAMES, PLACES, HELD_OUT_ATTRIBUTES, HELD_OUT_STATEMENTS,
                           HELD_OUT_QUESTIONS, HELD_OUT_VERBS, HELD_OUT_RECORDS, HELD_OUT_LOOKUPS)
HELD_OUT_WORDING_AND_KEYS = Wording(HELD_OUT_ADJECTIVES, HELD_OUT_NOUNS, HELD_OUT_FIRST_NAMES, HELD_OUT_SURNAMES,
                                    HELD_OUT_PLACES, HELD_OUT_ATTRIBUTES, HELD_OUT_STATEMENTS, HELD_OUT_QUESTIONS,
                                    HELD_OUT_VERBS, HELD_OUT_RECORDS, HELD_OUT_LOOKUPS)
