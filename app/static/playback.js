// The playback modes by name. A dialogue is a POST with a body: it has http and source, a text the three others.
//
// Each has formats(): the formats that this browser can play; unavailableReason(): why the mode cannot be used, or "";
// play({parameters, format, sound, meter, signal, keep, slow}): resolves when the last sample has been played, and
// rejects with a ServiceError, a NetworkError, or the signal's reason. `keep` receives the download: {name, blob()}.
// slow: the previous speech was generated hardly faster than real time.

import * as element from "./element_playback.js";
import * as http from "./http_playback.js";
import * as socket from "./websocket_playback.js";
import * as source from "./media_source_playback.js";

export const playbackModes = { socket, http, source, element };
