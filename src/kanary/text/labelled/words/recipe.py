"""Ingredients and sentences of the recipes."""

from kanary.text.labelled.shared import lines

MEATS = (
    "chicken thighs",
    "minced beef",
    "smoked bacon",
    "lamb shoulder",
    "pork loin",
    "turkey breast",
    "spicy sausage",
    "cooked ham",
    "stewing veal",
    "duck breast",
)
"""Meat, as it is bought."""
MEATLESS = (
    "cooked lentils",
    "firm tofu",
    "white beans",
    "cooked quinoa",
    "boiled chickpeas",
    "peeled chestnuts",
    "soaked barley",
    "black beans",
    "smoked tempeh",
    "seitan strips",
)
VEGETABLES = (
    "carrots",
    "leeks",
    "parsnips",
    "courgettes",
    "sweet potatoes",
    "green peppers",
    "ripe tomatoes",
    "fennel bulbs",
    "swedes",
    "young turnips",
    "artichokes",
    "celery stalks",
    "beetroots",
    "aubergines",
    "savoy cabbage leaves",
    "kohlrabi bulbs",
)
FILLINGS = ("rice", "pearl couscous", "short pasta", "millet", "cracked wheat", "egg noodles", "polenta", "bulgur")
SPICES = (
    "cumin",
    "smoked paprika",
    "turmeric",
    "grated nutmeg",
    "ground coriander",
    "dried thyme",
    "crushed fennel seed",
    "cayenne pepper",
    "sweet marjoram",
    "saffron",
    "black pepper",
)
DAIRIES = ("cream", "grated Gruyère", "feta", "sour cream", "yoghurt", "ricotta", "buttermilk", "mature Cheddar")
LIQUIDS = ("vegetable stock", "water", "cider", "tomato juice", "white wine", "coconut milk")
FATS = ("olive oil", "walnut oil", "sunflower oil", "rapeseed oil")
FRUITS = (
    "apples",
    "pears",
    "plums",
    "apricots",
    "blackberries",
    "rhubarb stalks",
    "cherries",
    "blueberries",
    "quinces",
)
NUTS = ("hazelnuts", "walnuts", "ground almonds", "pistachios", "poppy seeds", "desiccated coconut")
FLOURS = ("wheat flour", "spelt flour", "rye flour", "buckwheat flour", "fine oatmeal")
SUGARS = ("caster sugar", "brown sugar", "honey", "maple syrup")
SWEET_SPICES = ("cinnamon", "cardamom", "ground ginger", "vanilla", "ground cloves", "aniseed")

DISHES = ["stew", "casserole", "hotpot", "ragout", "supper", "pot"]
CAKES = ["cake", "loaf", "tart", "crumble", "pudding"]
STYLES = [
    "Farmhouse",
    "Sunday",
    "Midweek",
    "Harvest",
    "Winter",
    "Grandmother's",
    "Fisherman's",
    "Old-style",
    "Quick",
    "Village",
    "Market",
    "Student's",
]

TITLES = lines(
    "{style} {dish} with [recipe.vegetable {veg}] (serves {people}).",
    "{style} {dish}.",
    "From our kitchen: {style} {dish} for {people}.",
    "{style} {dish}, enough for {people} hungry people.",
    "Recipe number {issue}: {style} {dish}.",
    "For {people} at the table: {style} {dish}.",
    "{style} {dish}, a step at a time.",
)
SWEET_TITLES = lines(
    "{style} {dish} with [recipe.ingredient {fruit}].",
    "{style} {dish}.",
    "For the tea table: {style} {dish}.",
    "{style} {dish}, cut into {people} slices.",
    "Recipe number {issue}: {style} {dish}.",
    "Baking for beginners: the {style} {dish}.",
)
LIST_HEADS = ("Ingredients:", "You need:", "Shopping list:", "For {people} servings take", "Have ready:", "Gather:")
VEGETARIAN = lines(
    "[recipe.vegetarian Suitable for vegetarians].",
    "[recipe.vegetarian A dish without meat or fish].",
    "[recipe.vegetarian Nothing in it ever had legs or fins].",
    "[recipe.vegetarian Safe to serve to guests who eat no meat].",
)
CARNIVORE = lines(
    "Not suitable for vegetarians.",
    "Vegetarians, please turn the page.",
    "A dish for those who eat meat.",
    "For guests without meat on their plates, see the next recipe.",
)
PREPARE = lines(
    "Wash the [recipe.vegetable {veg}] and cut them into {shape}",
    "Rinse the [recipe.vegetable {veg}] under cold water, trim them and slice them into {shape}",
    "On a large board, chop the [recipe.vegetable {veg}] into {shape}",
    "Start with the [recipe.vegetable {veg}]: wash, trim and cut into {shape}",
    "Clean the [recipe.vegetable {veg}] with a stiff brush and turn them into {shape}",
)
FRY = lines(
    "Heat the [recipe.ingredient {fat}] in a heavy pan and soften a chopped [recipe.vegetable onion] in it"
    " for [recipe.minutes=m1 {m1} minutes]",
    "Warm the [recipe.ingredient {fat}] gently, add two crushed cloves of [recipe.vegetable garlic] and stir until golden",
    "In the [recipe.ingredient {fat}], sweat a diced [recipe.vegetable shallot] without letting it brown",
    "Pour the [recipe.ingredient {fat}] into a deep pot and glaze the [recipe.vegetable {veg}] for"
    " [recipe.minutes=m1 {m1} minutes]",
)
MAIN_TEXTS = (
    "Add the [main {main}] and brown on all sides",
    "Tip in the [main {main}] and stir for [recipe.minutes=m2 {m2} minutes]",
    "Let the [main {main}] colour in the same pan",
    "Stir in the [main {main}] over a high flame",
    "Fry the [main {main}] until crisp at the edges",
)
SEASON = lines(
    "Season with [recipe.spice salt] and [recipe.spice {spice}]",
    "Sprinkle the [recipe.spice {spice}] over everything, together with a pinch of [recipe.spice salt]",
    "Add half a teaspoon of [recipe.spice {spice}] and a [recipe.spice bay leaf]",
    "Dust with [recipe.spice {spice}] and stir until the pan smells of a bazaar",
    "Taste and correct with [recipe.spice salt], [recipe.spice {spice}] and a drop of [recipe.ingredient vinegar]",
)
FILL = lines(
    "Scatter the [recipe.ingredient {filling}] into the pan and pour in the [recipe.ingredient {liquid}]",
    "Deglaze with the [recipe.ingredient {liquid}] and fold in the [recipe.ingredient {filling}]",
    "Cover with the [recipe.ingredient {liquid}], bring to the boil and rain in the [recipe.ingredient {filling}]",
    "Add the [recipe.ingredient {liquid}] little by little and, last of all, the [recipe.ingredient {filling}]",
)
OVEN = lines(
    "Move everything to a greased dish and bake at [recipe.oven=oven {oven} degrees] for [recipe.minutes=m3 {m3} minutes]",
    "Slide the dish into an oven heated to [recipe.oven=oven {oven} °C] and wait for [recipe.minutes=m3 {m3} minutes]",
    "Braise in the oven for [recipe.minutes=m3 {m3} minutes], set to [recipe.oven=oven {oven} degrees]",
    "Bake on the lowest shelf ([recipe.oven=oven {oven} °C], [recipe.minutes=m3 {m3} minutes])",
)
STOVE = lines(
    "Cover and simmer on the stove for [recipe.minutes=m3 {m3} minutes]",
    "Leave on a low flame for [recipe.minutes=m3 {m3} minutes], with the lid ajar; no oven is needed",
    "Let the pot bubble quietly for [recipe.minutes=m3 {m3} minutes]",
    "Cook gently, stirring now and then, for [recipe.minutes=m3 {m3} minutes]",
)
FINISH = lines(
    "Spoon the [recipe.dairy {dairy}] on top and bring the dish to the table",
    "Stir in the [recipe.dairy {dairy}] just before serving",
    "Serve in warm bowls, with the [recipe.dairy {dairy}] in a jug of its own",
    "Finish with the [recipe.dairy {dairy}] and some torn [recipe.spice basil]",
)
PLAIN_FINISH = lines(
    "Scatter chopped [recipe.spice parsley] over the dish and serve at once",
    "Let rest for [recipe.minutes=m1 {m1} minutes] and serve with a green salad",
    "Serve straight from the pot, with crusty [recipe.ingredient bread]",
    "Divide among {people} plates and eat while hot",
)
MIX_TEXTS = (
    "Beat the [fat {butter}] with the [recipe.ingredient {sugar}] until pale and fluffy",
    "Cream the [fat {butter}] and the [recipe.ingredient {sugar}] in a large bowl",
    "Melt the [fat {butter}] with the [recipe.ingredient {sugar}] over a bowl of hot water",
)
EGGS = lines(
    "Whisk in the [recipe.ingredient eggs], one by one",
    "Add the [recipe.ingredient eggs] and beat for [recipe.minutes=m1 {m1} minutes] more",
    "Separate the [recipe.ingredient eggs]; keep the [recipe.ingredient whites] for later and"
    " stir in the [recipe.ingredient yolks]",
)
FLOUR = lines(
    "Sift the [recipe.ingredient {flour}] with the [recipe.spice {sweet}] and fold into the mixture",
    "Combine the [recipe.ingredient {flour}], the [recipe.spice {sweet}]"
    " and the [recipe.ingredient baking powder] and work into a batter",
    "Rub in the [recipe.ingredient {flour}] and a spoonful of [recipe.spice {sweet}] with cool fingers",
)
FRUIT = lines(
    "Lay the [recipe.ingredient {fruit}] on the dough, with the [recipe.ingredient {nuts}] in the gaps",
    "Stir the [recipe.ingredient {fruit}] and the [recipe.ingredient {nuts}] through the batter",
    "Arrange the [recipe.ingredient {fruit}] in circles and sprinkle with the [recipe.ingredient {nuts}]",
    "Press the [recipe.ingredient {fruit}] halfway into the dough and top with the [recipe.ingredient {nuts}]",
)
FRUIT_FIRST = lines(
    "Toss the [recipe.ingredient {fruit}] in [recipe.ingredient lemon juice] and set them aside under a cloth",
    "Rinse the [recipe.ingredient {fruit}] and pat them dry with a towel",
    "Spread the [recipe.ingredient {fruit}] on a tray and leave them to dry",
)
SWEET_OVEN = lines(
    "Bake for [recipe.minutes=m3 {m3} minutes] at [recipe.oven=oven {oven} degrees]",
    "Put the tin into an oven heated to [recipe.oven=oven {oven} °C]; take it out after [recipe.minutes=m3 {m3} minutes]",
    "Set the oven to [recipe.oven=oven {oven} degrees] and bake until a skewer comes out clean",
)
SWEET_STOVE = lines(
    "Steam over boiling water, tightly wrapped, for [recipe.minutes=m3 {m3} minutes]",
    "Press into a ring and chill in the refrigerator for [recipe.minutes=m3 {m3} minutes]; no baking here",
    "Cook in a covered frying pan for [recipe.minutes=m3 {m3} minutes], turning once",
)
SWEET_FINISH = lines(
    "Cool on a rack and dust with [recipe.ingredient icing sugar]",
    "Cut into {people} pieces while still lukewarm",
    "Leave to cool and wrap in foil until the next day",
)
SWEET_DAIRY = lines(
    "Serve with whipped [recipe.dairy cream]",
    "Cool on a rack and offer with a bowl of thick [recipe.dairy yoghurt]",
    "Spread the cold top with [recipe.dairy mascarpone]",
)
NOTES = lines(
    "Leftovers keep for two days in a sealed tin.",
    "Tip: double the quantities and freeze one half.",
    "The recipe works with a pan of any size.",
    "Goes well with a jug of cold lemonade.",
    "Handed down by a neighbour; reader's letter number {issue}.",
    "A heavy pan makes all the difference.",
)
SHAPES = ("thin rings", "small cubes", "matchsticks", "chunks the size of a walnut", "fine strips", "rough wedges")
LINKS = ("Then ", "After that, ", "Next, ", "Meanwhile, ", "At this point, ", "Now ", "", "", "", "", "")
