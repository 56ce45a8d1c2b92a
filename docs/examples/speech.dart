// Speech in a Flutter app: a sketch. dependencies: http, just_audio, web_socket_channel.
// Android: android.permission.INTERNET; and for http:// instead of https://, android:usesCleartextTraffic="true".
// The key is in the app's memory here: hand each user one of their own, or let a server of yours add it.

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

  /// Plays while it is being made.
  Future<AudioPlayer> play(String text, {String? voice}) async {
    final query = {'text': text, 'format': 'mp3', if (voice != null) 'voice_id': voice};
    final player = AudioPlayer();
    await player.setAudioSource(
      AudioSource.uri(base.replace(path: '${base.path}/tts/generate', queryParameters: query), headers: _headers),
    );
    unawaited(player.play());
    return player; // dispose() of it frees the slot
  }

  /// s16le at 24 kHz, mono, as it comes. An error in the stream means that it is not whole.
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

  /// An LLM's text as it is written; float32 at 24 kHz, sentence by sentence. Use it once.
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
        final told = jsonDecode(message as String) as Map<String, dynamic>;
        if (told['type'] == 'error') throw SpeechFailed('${told['message']}');
        if (told['type'] == 'completion') return;
      }
      throw SpeechFailed('the connection was cut: what came is not whole');
    } finally {
      await writing.cancel();
      await socket.sink.close();
    }
  }
}
