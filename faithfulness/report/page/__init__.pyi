from .render import render_page as render_page
from .typeset import latex_tables as latex_tables
from .words import PICTURES as PICTURES
from .words import SHEET as SHEET
from .words import about_picture as about_picture
from .words import about_protocol as about_protocol
from .words import place_of as place_of
