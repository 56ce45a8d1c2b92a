// Speech in a Flutter app: a sketch. dependencies: http, just_audio, web_socket_channel.
// Android: android.permission.INTERNET; and for http:// instead of https://, android:usesCleartextTraffic="true".
// The key is in the app's memory here: give each user their own, or let your own server add it.

import 'dart:async';
import 'dart:convert';
import 'dart:typed_data';

import 'package:http/http.dart' as http;
import 'package:just_audio/just_audio.dart';
import 'package:web_socket_channel/io.dart';

class SpeechFailed implements Exception {
  SpeechFailed(this.message);
  final String message;
  @override
  String toString() => message;
}

class Speech {
  Speech(this.base, this.key); // Uri.parse('https://speech.example.org'), a key
  final Uri base;
  final String key;

  Map<String, String> get _headers => {'X-API-Key': key};

  /// Plays the stream while it is generated.
  Future<AudioPlayer> play(String text, {String? voice}) async {
    final query = {'text': text, 'format': 'mp3', if (voice != null) 'voice_id': voice};
    final player = AudioPlayer();
    await player.setAudioSource(
      AudioSource.uri(base.replace(path: '${base.path}/tts/generate', queryParameters: query), headers: _headers),
    );
    unawaited(player.play());
    return player; // player.dispose() frees the slot
  }

  /// Streams s16le at 24 kHz, mono. An error in the stream means that the audio is incomplete.
  Stream<List<int>> samples(String text, {String? voice}) async* {
    final request = http.Request('POST', base.replace(path: '${base.path}/tts/generate'))
      ..headers.addAll({..._headers, 'Content-Type': 'application/json'})
      ..body = jsonEncode({'text': text, 'format': 'raw_pcm', if (voice != null) 'voice_id': voice});
    final client = http.Client();
    try {
      final response = await client.send(request);
      if (response.statusCode != 200) {
        final body = jsonDecode(await response.stream.bytesToString()) as Map<String, dynamic>;
        throw SpeechFailed('${body['detail']}');
      }
      yield* response.stream;
    } finally {
      client.close();
    }
  }

  /// Speaks LLM tokens sentence by sentence; streams float32 at 24 kHz. Single use.
  Stream<Float32List> converse(Stream<String> tokens) async* {
    final address = base.replace(scheme: base.scheme == 'https' ? 'wss' : 'ws', path: '${base.path}/ws');
    final socket = IOWebSocketChannel.connect(address, headers: _headers);
    final writing = tokens.listen(
      (token) => socket.sink.add(jsonEncode({'text': token, 'continue': true, 'binary': true})),
      onDone: () => socket.sink.add(jsonEncode({'text': ''})),
    );
    try {
      await for (final message in socket.stream) {
        if (message is List<int>) {
          yield Uint8List.fromList(message).buffer.asFloat32List();
          continue;
        }
        final event = jsonDecode(message as String) as Map<String, dynamic>;
        if (event['type'] == 'error') throw SpeechFailed('${event['message']}');
        if (event['type'] == 'completion') return;
      }
      throw SpeechFailed('the connection was aborted: the audio is incomplete');
    } finally {
      await writing.cancel();
      await socket.sink.close();
    }
  }
}
