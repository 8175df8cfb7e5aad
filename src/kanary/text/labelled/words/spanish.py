"""Spanish words and sentences. ``[o|a]`` agrees with the person a story is about, ``<o|a>`` with the other one in it."""

from kanary.text.labelled.templates import agreeing_lines, split, tables

TOWNS = ("Seville", "Granada", "Lima", "Bogotá", "Valencia", "Oaxaca", "Montevideo", "Cusco")
HOSTS = (
    ("Javier", "Pedro", "Andrés", "Miguel", "Rafael", "Gonzalo"),
    ("Carmen", "Lucía", "Pilar", "Dolores", "Beatriz", "Rosario"),
)
MEN = ("Javier", "Pedro", "Andrés", "Miguel", "Rafael", "Gonzalo", "Diego", "Tomás", "Julián", "Manuel")
WOMEN = ("Carmen", "Lucía", "Pilar", "Dolores", "Beatriz", "Rosario", "Elena", "Ana", "Teresa", "Marta")
PHRASES = {
    "greet": tables(
        """
        Good morning|Buenos días
        Good evening|Buenas noches
        Welcome|Bienvenidos
        Come in, please|Pase, por favor
        Peace be with this house|Paz a esta casa
        """,
        2,
    ),
    "thanks": tables(
        """
        Thank you very much|Muchas gracias
        Thank you for everything|Gracias por todo
        A thousand thanks|Mil gracias
        You are very kind|Es usted muy amable
        """,
        2,
    ),
    "bye": tables(
        """
        See you tomorrow|Hasta mañana
        Have a good journey|Buen viaje
        Until next time|Hasta la próxima
        Come back soon|Vuelva pronto
        """,
        2,
    ),
    "ask": tables(
        """
        Where is the station?|¿Dónde está la estación?
        How much does it cost?|¿Cuánto cuesta?
        What time is it?|¿Qué hora es?
        Do you have a brother?|¿Tienes un hermano?
        Is it far from here?|¿Está lejos de aquí?
        """,
        2,
    ),
    "sign": tables(
        """
        Closed on Mondays|Cerrado los lunes
        Drinking water|Agua potable
        No entry|Prohibido el paso
        Exit to the garden|Salida al jardín
        Fresh bread every day|Pan fresco todos los días
        """,
        2,
    ),
    "food": tables(
        """
        Bread with tomato|Pan con tomate
        Rice with chicken|Arroz con pollo
        Almond soup|Sopa de almendras
        Fish with lemon|Pescado con limón
        Apple cake|Tarta de manzana
        """,
        2,
    ),
    "saying": tables(
        """
        Little by little one goes far|Poco a poco se llega lejos
        He who seeks, finds|Quien busca, encuentra
        After the storm comes the calm|Después de la tormenta viene la calma
        Each day brings its own work|Cada día trae su trabajo
        A full belly makes a happy heart|Barriga llena, corazón contento
        """,
        2,
    ),
}
WORDS = tables(
    """
    house|casa
    book|libro
    key|llave
    window|ventana
    door|puerta
    table|mesa
    chair|silla
    bread|pan
    water|agua
    apple|manzana
    dog|perro
    cat|gato
    horse|caballo
    moon|luna
    sun|sol
    sea|mar
    friend|amigo
    brother|hermano
    sister|hermana
    street|calle
    city|ciudad
    hat|sombrero
    shoe|zapato
    letter|carta
    bridge|puente
    garden|jardín
    tree|árbol
    bird|pájaro
    fish|pez
    milk|leche
    """,
    2,
)
THINGS = tuple(
    (
        f"{'un' if gender == 'm' else 'una'} {noun} {adjective}",
        f"{'el' if gender == 'm' else 'la'} {noun}",
        f"{'un' if gender == 'm' else 'una'} {noun} {adjective}",
    )
    for noun, gender in (
        ("libro", "m"),
        ("sombrero", "m"),
        ("reloj", "m"),
        ("abrigo", "m"),
        ("paraguas", "m"),
        ("espejo", "m"),
        ("cuaderno", "m"),
        ("tambor", "m"),
        ("lámpara", "f"),
        ("maleta", "f"),
        ("guitarra", "f"),
        ("camisa", "f"),
        ("bufanda", "f"),
        ("cámara", "f"),
        ("silla", "f"),
        ("manta", "f"),
    )
    for adjective in (
        *(
            f"{stem}{'o' if gender == 'm' else 'a'}"
            for stem in ("nuev", "viej", "roj", "blanc", "negr", "pequeñ", "barat")
        ),
        *("verde", "azul", "enorme", "elegante"),
    )
)
LISTS = {
    "day": split("lunes martes miércoles jueves viernes sábado domingo"),
    "when": ("por la mañana", "por la tarde", "muy temprano", "al mediodía", "antes de cenar"),
    "weather": ("llovía", "hacía sol", "hacía mucho frío", "soplaba el viento", "nevaba un poco", "hacía calor"),
    "place": (
        "al mercado",
        "a la estación",
        "al puerto",
        "a la plaza",
        "a la biblioteca",
        "al parque",
        "a la panadería",
    ),
    "there": ("en la esquina", "junto al río", "delante de la iglesia", "cerca del puente", "en la parada del autobús"),
    "kin": ("su hermana", "su abuelo", "su madre", "su tía", "su primo", "su vecina"),
    "eaten": (
        "sopa con pan",
        "pescado con arroz",
        "una tortilla",
        "queso y aceitunas",
        "pollo con patatas",
        "una ensalada",
    ),
    "drink": ("un café", "un té con limón", "un vaso de leche", "un zumo de naranja", "un poco de agua"),
    "town": ("Sevilla", "Granada", "Lima", "Bogotá", "Valencia", "Cuzco", "Salamanca"),
    "days": ("lunes", "martes", "miércoles", "jueves", "viernes", "sábados", "domingos"),
    "hour": ("dos", "tres", "cuatro", "ocho", "nueve"),
    "far": ("Suiza", "Chile", "Canadá", "Noruega"),
    "count": ("dos", "tres", "cuatro", "cinco", "siete", "diez"),
    "pet": ("un perro marrón", "un gato gris", "una tortuga", "un loro muy viejo", "dos canarios", "una gata blanca"),
    "job": (
        "en un hospital",
        "en una escuela",
        "en una fábrica",
        "en correos",
        "en el ayuntamiento",
        "en una librería",
    ),
    "color": ("blanca", "amarilla", "roja", "azul", "verde"),
}
_DAY = (
    (
        """
        El {day}, {when}, {n} salió de casa y fue {place}.
        Aquel {day} {weather}, y {n} quería ir {place}.
        {n} se despertó tarde el {day} y fue corriendo {place}.
        Ese día {weather}, y {n} fue despacio {place}.
        Hace {count} semanas, {n} fue {place} con una lista muy larga.
        """,
        100,
    ),
    (
        """
        Iba un poco cansad[o|a], porque había dormido mal.
        Estaba content[o|a] y cantaba por la calle.
        No tenía prisa y miraba los escaparates.
        Llegó sol[o|a], aunque {kin} había prometido acompañarl[o|a].
        En el camino saludó a {count} vecinos y a un perro.
        """,
        75,
    ),
    (
        """
        En un puesto compró {thing} para {kin}.
        En una tienda encontró {thing}, y decidió llevárselo todo a casa, también {count} naranjas y un pan.
        En el escaparate de una tienda vio {thing} y pagó sin discutir el precio.
        Un vendedor le vendió {thing} por muy poco dinero.
        Buscaba {thing}, y lo que parecía difícil resultó fácil.
        """,
        100,
    ),
    (
        """
        Después se sentó {there} y bebió {drink}.
        Luego tomó {drink} {there}.
        Más tarde, {there}, comió {eaten}.
        A las {hour} tenía hambre y pidió {eaten}.
        """,
        80,
    ),
    (
        """
        De repente vio a su amig<o|a> {m}, que leía el periódico <solo|sola> en un banco.
        Al volver se encontró con {m}, <el médico|la médica> del barrio.
        En ese momento llegó {m}, muy nervios<o|a>.
        {m}, un<|a> antigu<o|a> compañer<o|a> de clase, l[o|a] llamó desde el otro lado de la calle.
        """,
        100,
    ),
    (
        """
        —¿Qué tienes ahí? —preguntó {m}. —Es {thing} —contestó {n}.
        —¡Qué sorpresa! —dijo {m}. —Yo también me alegro de verte —respondió {n}.
        —¿Estás cansad[o|a]? —preguntó {m}. —Un poco —dijo {n}—, pero content[o|a].
        Hablaron de la familia, del trabajo y de los viejos tiempos.
        {m} le contó que vivía ahora en {town} y que trabajaba {job}.
        """,
        90,
    ),
    (
        """
        {n} le enseñó {the_thing}, y {m} se quedó callad<o|a> un momento.
        A {m} le gustó mucho {the_thing}.
        Entonces {n} abrió la bolsa y sacó {the_thing}.
        {m} tocó {the_thing} con cuidado.
        """,
        60,
    ),
    (
        """
        Cuando volvieron a casa, ya era de noche.
        Se despidieron con un abrazo, y {n} volvió a casa en autobús.
        Por la noche, {n} dejó {the_thing} sobre la mesa y se durmió enseguida.
        {n} llegó a casa cansad[o|a], pero muy tranquil[o|a].
        Al día siguiente, {n} escribió una carta a {kin} y le contó todo.
        Desde entonces se ven todos los {days}, o casi todos.
        """,
        100,
    ),
)
_LIFE = (
    (
        """
        {n} vive en {town}, en una casa {color} con {count} ventanas.
        Desde hace {count} años, {n} vive en {town}, lejos de su familia.
        {n} es nuev[o|a] en el barrio y trabaja {job}.
        La casa de {n} está en {town}, muy cerca del mar.
        """,
        100,
    ),
    (
        """
        En la casa hay una cocina grande, un patio con flores y {count} habitaciones.
        La puerta es {color} y las paredes son blancas.
        Delante de la casa crece un árbol alto que da sombra en verano.
        Desde el balcón se ven los tejados, las torres y las montañas.
        """,
        80,
    ),
    (
        """
        En el salón hay {thing}, y nadie sabe de dónde viene.
        Sobre la cama está siempre {thing}.
        En un rincón se ve {thing}, regalo de {kin}.
        """,
        70,
    ),
    (
        """
        Allí vive también {pet}.
        Los niños del barrio cuidan entre todos a {pet}.
        En el patio duerme {pet}.
        """,
        60,
    ),
    (
        """
        Todas las mañanas, {n} toma {drink}, lee el periódico y sale a trabajar.
        Los {days} por la tarde, la familia come {eaten} en la cocina.
        {n} trabaja mucho, pero los domingos duerme hasta las once.
        Antes de salir, {n} riega las plantas y cierra las ventanas.
        """,
        100,
    ),
    (
        """
        {m} es su mejor amig<o|a>: es alt<o|a>, simpátic<o|a> y un poco distraíd<o|a>.
        Su vecin<o|a> {m} es muy generos<o|a> y siempre está ocupad<o|a>.
        A veces viene {m}, que es mucho más joven y nunca está callad<o|a>.
        """,
        100,
    ),
    (
        """
        Con {m} va {place}, mira a la gente y habla de todo.
        Juegan a las cartas y beben {drink} con los vecinos.
        Cuando llueve, preparan {eaten} y escuchan la radio.
        Si hace buen tiempo, se encuentran {there}.
        """,
        80,
    ),
    (
        """
        La vida aquí es tranquila, y el tiempo pasa despacio.
        El año que viene quieren viajar a {far} y ver la nieve.
        Nadie tiene mucho dinero, pero a nadie le falta pan.
        Así son los días, y así está bien.
        """,
        100,
    ),
)
STORIES = tuple(tuple((agreeing_lines(text), percent) for text, percent in story) for story in (_DAY, _LIFE))
