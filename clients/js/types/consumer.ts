// A program that uses the package, and mistakes that its types find: compiled, never run.

import { CsmClient, Microphone, PcmPlayer, Recording, SAMPLE_RATE, ServiceError, type AudioFormat } from "csm-serve-client";

const client = new CsmClient({ url: "http://localhost:8000", key: () => "key", WebSocket });

export async function speak(text: AsyncIterable<string>, signal: AbortSignal): Promise<Blob> {
  const player = await PcmPlayer.open(new AudioContext(), { lead: 0.2 });
  const recording = new Recording(SAMPLE_RATE);
  player.onProgress = (seconds) => console.log(seconds.toFixed(1));
  for await (const samples of client.speak({ text, voice_id: "amy.wav" }, { signal, onStatus: ({ engine }) => console.log(engine), onMark: ({ words }) => console.log(words[0]?.start_ms) })) {
    recording.push(samples.slice());
    player.push(samples);
  }
  player.end();
  return recording.wav();
}

export async function generate(format: AudioFormat): Promise<ArrayBuffer> {
  try {
    const dialogue = { turns: [{ voice_id: "amy.wav", text: "Hello." }, { voice_id: "speaker_1", text: "Hi.", gap_ms: -100 }] };
    await client.generate(dialogue);
    return await (await client.generate({ text: "Hello.", format, reference: { audio: "base64" } })).arrayBuffer();
  } catch (error) {
    if (error instanceof ServiceError && error.retryAfter !== null) console.log(error.code, error.retryAfter + 1);
    throw error;
  }
}

export async function manage(file: File): Promise<number> {
  const { voice_id: id, warnings } = await client.addVoice(file, { transcript: "Its words." });
  await client.addVoice(file, { voiceId: id, replace: true });
  const { id: same, seconds, preloaded } = await client.voice(id);
  if (!preloaded) await client.deleteVoice(same);
  return seconds + warnings.length + (await client.voices()).length;
}

export async function converse(): Promise<() => void> {
  const conversation = client.converse({ onEvent: ({ type, delta }) => console.log(type, delta), onRefused: (error) => console.log(error.status) });
  const microphone = await Microphone.open((pcm) => conversation.send("input_audio_buffer.append", { bytes: pcm.byteLength }), () => conversation.close());
  return () => microphone.close();
}

// @ts-expect-error a format that the service does not have
client.generate({ text: "Hello.", format: "ogg" });
// @ts-expect-error no text
client.generate({ voice_id: "amy.wav" });
// @ts-expect-error a parameter of another name
client.generate({ text: "Hello.", voice: "amy.wav" });
// @ts-expect-error a turn without a voice
client.generate({ turns: [{ text: "Hello." }] });
// @ts-expect-error a voice is a string
client.speak({ text: "Hello.", voice_id: 5 });
// @ts-expect-error WS /ws has one format
client.speak({ text: "Hello.", format: "mp3" });
// @ts-expect-error the voice that is replaced is missing
client.addVoice(new Blob(), { replace: true });
// @ts-expect-error no events
client.converse({});
// @ts-expect-error it is opened
new PcmPlayer();
// @ts-expect-error no class
new CsmClient({ WebSocket: 5 });
