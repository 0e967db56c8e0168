"""What tidemill needs from the world: protocols of one to three methods, one module per noun.

Lives here: `Protocol` classes and the small frozen values they exchange.
May not live here: any implementation, any import of an SDK.
"""
