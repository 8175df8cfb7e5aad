"""What several families share: names of people, and ``a`` or ``an``."""

WOMEN = (
    *("Anna", "Maria", "Lucy", "Emma", "Sofia", "Clara", "Nora", "Ella", "Ruth", "Alice", "Julia", "Helen", "Laura"),
    *("Sara", "Eva", "Rosa", "Irene", "Marta", "Olga", "Vera", "Diana", "Paula", "Silvia", "Teresa", "Amina", "Leila"),
    *("Yara", "Dina", "Hana", "Mina", "Noor", "Salma", "Esther", "Miriam", "Tamar", "Hanna", "Greta", "Ingrid"),
    *("Astrid", "Freya"),
)
MEN = (
    *("Peter", "Paul", "Tom", "Jack", "Ben", "Sam", "David", "Daniel", "Simon", "Mark", "Luke", "Adam", "Leo", "Max"),
    *("Oscar", "Felix", "Hugo", "Victor", "Martin", "Robert", "Henry", "George", "Arthur", "Walter", "Omar", "Karim"),
    *("Tarek", "Samir", "Yusuf", "Hassan", "Ali", "Rami", "Jacob", "Aaron", "Noah", "Ezra", "Lars", "Erik", "Nils"),
    *("Anton",),
)


def article(word: str) -> str:
    """``a`` or ``an``."""
    return "an" if word[0] in "aeiou" else "a"
