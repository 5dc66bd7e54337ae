"""What a scene may show and a question may name. The order is part of the data's identity."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 30, 36),
    "green": (24, 150, 50),
    "blue": (28, 70, 210),
    "yellow": (246, 214, 20),
    "orange": (244, 126, 12),
    "purple": (136, 42, 168),
    "black": (14, 14, 14),
    "white": (250, 250, 250),
}
COLOUR_NAMES = tuple(COLOURS)
DARK_COLOURS = ("red", "green", "blue", "purple", "black")
"""Colours that ink may have on white paper."""

SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross")
BACKGROUNDS = ("plain", "stripes", "dots", "checks", "clouds", "flower", "temple")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DIGITS = "0123456789"
CHARACTERS = LETTERS + DIGITS

WORDS = tuple(
    """
    ACE AIR ARM BAG BAR BED BOX BUS CAB CAR CAT CUP DAY DOG DRY EGG EXIT FAN FOX GAS GUM HAT HOT
    ICE INK JAM JAR JET KEY KIT LAB LEG LOW MAP MIX MUD NET NEW OAK OFF OIL OWL PEN PIE POT RAW
    RED RUN SAW SEA SKY SUN TAX TEA TOP VAN WAX WET WIN YES ZOO ATOM BANK BIKE BOAT CAFE CAKE CITY
    COLD DESK DOOR DUCK EAST FARM FIRE FISH FROG GATE GOLD HAND HELP HOME IRON JAZZ KING KIWI LAMP
    LIFT LION MILK MOON NECK NOON OPEN OVEN PARK PLUM QUIZ RAIN ROAD SALE SHOP SNOW STOP TAXI TREE
    UNIT VASE VIEW WEST WOLF WOOD YARD ZERO APPLE BREAD CHAIR CLOCK DRIVE EMPTY FRUIT GHOST HOTEL
    JUICE KNIFE LEMON MOUSE NORTH OCEAN PAPER QUEEN RADIO SHEEP TIGER TRAIN UNDER VIDEO WATER ZEBRA
    """.split()  # noqa: SIM905 - two hundred quoted lines say no more
)
MAX_CHARACTERS = 5
"""Longest printed word or number."""

PLACES = (
    "top left", "top", "top right",
    "left", "middle", "right",
    "bottom left", "bottom", "bottom right",
)  # fmt: skip
NUMBER_NAMES = ("0", "1", "2", "3", "4", "5", "6")
KINDS = ("global", "attribute", "place", "reading", "detail")

IMAGE_SIDE_PX = 192
PATCH_SIDE_PX = 8
GRID = IMAGE_SIDE_PX // PATCH_SIDE_PX
"""Patches on a side: 24, so 576 in the image."""
