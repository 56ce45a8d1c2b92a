// The three ways to play, by the names that the page has for them.
//
// Each has formats(): those that this browser can play so; obstacle(): why it cannot be used here, or "";
// play({parameters, format, sound, meter, signal, keep, slow}): resolves when the last sample was heard, and rejects
// with a Refusal, an Unreachable, or the signal's reason. `keep` is given what can be downloaded: {name, blob()}.
// slow: the last speech was made hardly faster than it is heard.

import * as element from "./way_element.js";
import * as socket from "./way_socket.js";
import * as source from "./way_source.js";

export const ways = { socket, source, element };
