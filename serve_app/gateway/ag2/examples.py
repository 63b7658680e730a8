"""The functions of AG2's demo (document 003), for trying the door out: made up, not looked up.

ag2:
  functions: ["serve_app.gateway.ag2.examples:functions"]
"""

from __future__ import annotations

import hashlib
from typing import Annotated

from serve_app.gateway.ag2.functions import FunctionRegistry

functions = FunctionRegistry()


@functions.register(description="Get the current weather")
def get_weather(location: Annotated[str, "city"]) -> str:
    """Return document 003's weather: cloudy in Rome, sunny elsewhere."""
    return "The weather is cloudy." if location.strip().lower() == "rome" else "The weather is sunny."


@functions.register(description="Get the current temperature")
def get_temperature(location: Annotated[str, "city"]) -> str:
    """Return a temperature that is always the same for a city: 10 to 29 °C."""
    digest = hashlib.sha256(location.strip().lower().encode()).digest()
    return f"The temperature is {10 + digest[0] % 20} degrees Celsius."
