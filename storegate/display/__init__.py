"""Display: what a gate holds, for the eyes of people; from metadata alone.

What its files know:

    text  tables, titles and warnings
"""
