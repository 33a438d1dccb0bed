import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.TreeMap;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.zip.CRC32;

/** Fills, drops and checks a heap of objects in several threads. Prints the same on every run. */
public class Heap {
  static final int THREADS = 4;
  static final int RECORDS = 12_000;

  /** A record that knows its own checksum. */
  static final class Node {
    final int number;
    final String name;
    final byte[] body;
    final long crc;
    Node next;

    Node(int number, Random random) {
      this.number = number;
      name = "record " + Long.toHexString(number * 2654435761L);
      body = new byte[200 + random.nextInt(2000)];
      // Half of it repeats, as real data does.
      byte[] part = new byte[body.length / 2 + 1];
      random.nextBytes(part);
      for (int i = 0; i < body.length; i++) body[i] = i % 3 == 0 ? (byte) number : part[i / 2];
      crc = checksum();
    }

    long checksum() {
      CRC32 crc = new CRC32();
      crc.update(body);
      crc.update(name.getBytes());
      return crc.getValue();
    }
  }

  static long check(Map<Integer, Node> table, Node newest) {
    long sum = 0;
    for (Map.Entry<Integer, Node> entry : table.entrySet()) {
      Node node = entry.getValue();
      if (node.number != entry.getKey()) throw new AssertionError("node " + node.number + " under " + entry.getKey());
      if (node.checksum() != node.crc) throw new AssertionError("bytes of node " + node.number);
      sum = sum * 31 + node.crc;
    }
    int length = 0;
    for (Node node = newest; node != null; node = node.next) length++;
    return sum * 31 + length;
  }

  static long work(int thread, int rounds) {
    Random random = new Random(thread);
    Map<Integer, Node> table = thread % 2 == 0 ? new HashMap<>() : new TreeMap<>();
    long sum = 0;
    for (int round = 0; round < rounds; round++) {
      Node newest = null;
      for (int i = 0; i < RECORDS; i++) {
        Node node = new Node(random.nextInt(RECORDS), random);
        node.next = i % 100 == 0 ? null : newest;
        newest = node;
        table.put(node.number, node);
      }
      sum = sum * 31 + check(new TreeMap<>(table), newest);
      if (round % 3 == thread % 3) System.gc();
      for (int i = 0; i < RECORDS; i += 2) table.remove(i);
      for (Node node : table.values()) node.next = null;
    }
    return sum;
  }

  public static void main(String[] arguments) throws Exception {
    int rounds = Integer.parseInt(arguments[0]);
    ExecutorService pool = Executors.newFixedThreadPool(THREADS);
    List<Future<Long>> sums = new ArrayList<>();
    for (int thread = 0; thread < THREADS; thread++) {
      int number = thread;
      sums.add(pool.submit((Callable<Long>) () -> work(number, rounds)));
    }
    for (Future<Long> sum : sums) System.out.println(Long.toHexString(sum.get()));
    pool.shutdown();
    System.out.println("all right");
  }
}
